"""Knock-out of edges: what happens to the objective when some positions may no longer look at some others."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...models.inputs.axes import Positions
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...tables import HeadTable
from ..grid import Heads, grid, set_grid
from ..question import SweepAsked, answer
from .plan import bucket
from .work import Prepared, Resources, Sweep


def knock_out(
    model: Model,
    batch: Batch,
    objective: Objective,
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    by: Sequence[str] = ("layer", "head"),
    sets: Mapping[str, Heads] | None = None,
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """Forbid heads to look from some positions at others, and see how the objective changes (Geva et al. 2023,
    "attention knockout": scores set to −∞ before the softmax, so that what is left still sums to 1).

    Args:
        queries, keys: which positions may not look, and at which: bool `[B,T]` (keys of cross-attention `[B,S]`), or
            one index into the padded batch for each example `[B]`, or one for all.
        by: ("layer", "head"), or ("layer",) for all heads of a layer at once.
        sets: instead of `by`: named sets of (layer, head) pairs, such as all heads of a window of layers.
        stack, seed, level, memory, devices, progress, resume: as in `ablate`.

    Returns:
        One row a cell, columns `effect effect_low effect_high`, as in `ablate`.

    Raises:
        ValueError: if an example has no edge to knock out (a causal stack sees no later key, none sees padding), or a
            query would be left without any key to look at; and as `ablate` does.
    """
    part = model.stack(stack)
    model.check(batch)
    if "position" in by:
        raise ValueError(f"positions of a knock-out are in queries and keys; by is by head or layer, got {tuple(by)}")
    asking, seen = part.queries.of(batch), part.keys.of(batch)
    edges_BTS = _edges(part, asking, seen, _positions("queries", queries, asking), _positions("keys", keys, seen))
    reads, T = objective.reads(model, batch), asking.shape[1]
    first = int(bucket(int(edges_BTS.any(axis=(0, 2)).argmax()), T)) if part.causal else 0
    cells = grid(part, "scores", batch, by, first) if sets is None else set_grid(part, "scores", sets)
    prepared, room = Prepared(1, lambda _: _Forbidden(edges_BTS)), Resources(memory, Devices.of(devices))
    sweep = Sweep.planned(model, part, batch, objective, reads, prepared, cells.steps, room)
    asked = SweepAsked(sweep, cells, (edges_BTS, repr(by), repr(sets)))
    about = {"by": list(by), "sets": None if sets is None else list(sets), "edges": int(edges_BTS.sum())}
    return answer("knock_out", [asked], about, stream=False, level=level, seed=seed, progress=progress, resume=resume)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lowest:
    """The lowest score there is, at the edges `[B,1,T,S]`."""

    where: Array

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """`[1,1,1,1]`."""
        del site, layer
        return jnp.full((1, 1, 1, 1), jnp.finfo(stack.blocks.attention.W_Q.dtype).min)


@dataclass(frozen=True)
class _Forbidden:
    """Edges of the batch, bool `[B,T,S]`."""

    edges: np.ndarray

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[Lowest]:
        """Those of these examples."""
        del piece
        yield Lowest(sweep.room.devices.examples(jnp.asarray(self.edges[examples][:, None])))


def _positions(name: str, given: ArrayLike, side: Positions) -> np.ndarray:
    """Bool `[B,T]`."""
    array, (B, T) = np.asarray(given), side.shape
    if array.dtype == bool and array.shape == (B, T):
        return array
    if np.issubdtype(array.dtype, np.integer) and array.shape in ((), (1,), (B,)):
        if array.min() < 0 or array.max() >= T:
            raise ValueError(f"{name} must lie in 0..{T - 1}, got {array.tolist()}")
        return np.broadcast_to(array.reshape(-1), (B,))[:, None] == np.arange(T)
    raise ValueError(
        f"{name} must be bool {[B, T]}, or a position for each of {B} examples, or one for all; "
        f"got {array.dtype} of shape {list(array.shape)}"
    )


def _edges(stack: Stack, asking: Positions, seen: Positions, queries_BT: np.ndarray, keys_BS: np.ndarray) -> np.ndarray:
    """The edges that are there to be knocked out, bool `[B,T,S]`."""
    back_only = stack.causal and not stack.is_cross
    visible_BTS = np.asarray(asking.mask)[:, :, None] & np.asarray(seen.mask)[:, None]
    visible_BTS &= np.tri(asking.shape[1], dtype=bool) if back_only else True
    edges_BTS = visible_BTS & queries_BT[:, :, None] & keys_BS[:, None]
    none = np.flatnonzero(~edges_BTS.any(axis=(1, 2)))
    if none.size:
        raise ValueError(
            f"a knock-out hits nothing in examples {none[:8].tolist()}: no chosen query sees a chosen key there"
        )
    blind = np.argwhere(edges_BTS.any(axis=2) & ~(visible_BTS & ~edges_BTS).any(axis=2))
    if blind.size:
        raise ValueError(f"example {blind[0][0]}, position {blind[0][1]} would be left without any key to look at")
    return edges_BTS
