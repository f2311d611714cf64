"""Knock-out of attention edges: what happens to the objective when queries may no longer look at some keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.lengths import Lengths, longer, sweep_runs
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch, Positions, Texts
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...programs import to_device
from ...reads import reads_of
from ..cached_run import start_column
from ..grid import Heads, site_grid
from ..question import Question, sweep
from .plan import edit_groups, set_groups
from .replacement import OneValue
from .work import Chunk, exact


@sweep
def knock_out(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    queries: ArrayLike | None = None,
    keys: ArrayLike | None = None,
    *,
    edges: ArrayLike | None = None,
    by: Sequence[str] = ("layer", "head"),
    sets: Mapping[str, Heads] | None = None,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Forbid heads to look from some positions at others, and return how the objective changes.

    Scores are set to the lowest number before the softmax, so that what is left still sums to 1 ("attention knockout",
    Geva et al. 2023). A head's learnt sink (GPT-OSS) is no key and stays: it gets its share of what is knocked out, and
    all of it where no key is left.

    Args:
        queries, keys: which positions may not look, and at which: bool `[B,T]` (keys of cross-attention `[B,S]`), or
            one index into the padded batch for each example `[B]`, or one for all. Every such query loses every such
            key.
        edges: instead of both, any edges: bool `[B,T,S]`, True where a query may not look at a key, or `[T,S]` for all
            examples. Edges to later keys of a causal stack, beyond a window, and from or to padding are none: they
            count for nothing.
        by: ("layer", "head"); ("layer", "kv_head") for all query heads of a key/value head at once; or ("layer",) for
            all heads of a layer at once.
        sets: instead of `by`: named sets of (layer, head) pairs, such as all heads of a window of layers.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a cell, columns `effect effect_low effect_high`, as in `ablate`.

    Raises:
        ValueError: for edges that are not bool or of another shape, or that come beside queries and keys; if an example
            has no edge to knock out (a causal stack sees no later key, none sees padding), or a query would be left
            without any key to look at, or a learnt sink; and as `ablate` does.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    model.check(batch)
    if "position" in by:
        raise ValueError(f"positions of a knock-out are in queries and keys; by is by head or layer, got {tuple(by)}")
    own, seen = stack.queries.of(batch), stack.keys.of(batch)
    edges_BTS = _visible(stack, own, seen, _chosen(own, seen, queries, keys, edges))
    count = len(sets) if sets is not None else site_grid(stack, "scores", batch, by).size
    reads, lengths = reads_of(objective, model, batch), Lengths(model)
    reads, batch = lengths.read(objective, reads, batch, runs=sweep_runs(count))
    own, seen = stack.queries.of(batch), stack.keys.of(batch)
    edges_BTS = longer(longer(edges_BTS, own.shape[1], 1), seen.shape[1], 2)
    if sets is None:
        # In a causal stack nothing changes before the first query that loses a key.
        first = int(start_column(int(edges_BTS.any(axis=(0, 2)).argmax()), own.shape[1])) if stack.causal else 0
        grid = site_grid(stack, "scores", batch, by)
        cells = grid, edit_groups(stack, "scores", batch, grid, first)
    else:
        cells = set_groups(stack, "scores", sets)
    yield exact(
        model,
        stack,
        batch,
        objective,
        reads,
        cells,
        ForbiddenEdges(edges_BTS),
        resources,
        identity=(edges_BTS, by, sets),
        about={"by": list(by), "sets": None if sets is None else list(sets), "edges": int(edges_BTS.sum())},
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowestScore:
    """The lowest score that the dtype has, at the edges `[B,1,T,S]`."""

    where: Array

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """Return the score, `[1,1,1,1]`."""
        del site, layer
        return jnp.full((1, 1, 1, 1), jnp.finfo(stack.blocks.attention.W_Q.dtype).min)


class ForbiddenEdges(OneValue):
    """A source that forbids edges of the batch, bool `[B,T,S]`."""

    def __init__(self, edges: np.ndarray):
        self.edges = edges

    def of(self, chunk: Chunk) -> Iterator[LowestScore]:
        """Yield the lowest score at these examples' edges."""
        yield LowestScore(chunk.devices.examples(to_device(self.edges[chunk.examples][:, None])))


def _chosen(
    own: Positions, seen: Positions, queries: ArrayLike | None, keys: ArrayLike | None, edges: ArrayLike | None
) -> np.ndarray:
    """Return the edges that were asked for, bool `[B,T,S]`."""
    if edges is None:
        if queries is None or keys is None:
            raise ValueError("a knock-out needs queries and keys, or edges (bool [examples, queries, keys])")
        return _positions("queries", queries, own)[:, :, None] & _positions("keys", keys, seen)[:, None]
    if queries is not None or keys is not None:
        raise ValueError("edges say which queries lose which keys: leave queries and keys out")
    array, shape = np.asarray(edges), (*own.shape, seen.shape[1])
    if array.dtype != bool or array.shape not in (shape, shape[1:]):
        raise ValueError(
            f"edges must be bool {list(shape)}, or {list(shape[1:])} for all examples; got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return np.broadcast_to(array, shape)


def _positions(name: str, chosen: ArrayLike, positions: Positions) -> np.ndarray:
    """Return the chosen positions as bool `[B,T]`."""
    array, (B, T) = np.asarray(chosen), positions.shape
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


def _visible(stack: Stack, queries: Positions, keys: Positions, chosen_BTS: np.ndarray) -> np.ndarray:
    """Return the chosen edges that some layer has, bool `[B,T,S]`; raises ValueError where that leaves none or all."""
    real_BTS = np.asarray(queries.mask)[:, :, None] & np.asarray(keys.mask)[:, None]
    if stack.causal and not stack.is_cross:
        real_BTS &= np.tri(queries.shape[1], dtype=bool)
    distance_BTS = np.abs(np.asarray(queries.positions)[:, :, None] - np.asarray(keys.positions)[:, None])
    edges_BTS = np.zeros_like(chosen_BTS)
    for window in _windows(stack):
        visible_BTS = real_BTS if window is None else real_BTS & (distance_BTS < window)
        hit_BTS = visible_BTS & chosen_BTS
        # A row without any key would be a softmax of nothing: uniform over masked keys, and no knock-out.
        blind = np.argwhere(hit_BTS.any(axis=2) & ~(visible_BTS & ~chosen_BTS).any(axis=2))
        if blind.size and stack.sinks is None:
            raise ValueError(f"example {blind[0][0]}, position {blind[0][1]} would be left without any key to look at")
        edges_BTS |= hit_BTS
    without = np.flatnonzero(~edges_BTS.any(axis=(1, 2)))
    if without.size:
        raise ValueError(
            f"a knock-out hits nothing in examples {without[:8].tolist()}: no chosen query sees a chosen key there"
        )
    return edges_BTS


def _windows(stack: Stack) -> list[int | None]:
    """Return the windows of the layers, each once: how far a query sees; None for a stack without windows."""
    window = stack.blocks.attention.window
    return (
        [None] if window is None else np.unique(np.asarray(window if isinstance(window, int) else window[...])).tolist()
    )
