"""Can another head's attention do a head's work? Patterns are shared, and what that costs is the answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...objectives import Objective
from ...tables import HeadTable
from ..grid import grid
from ..question import SweepAsked, answer
from .values import Bank
from .work import Prepared, Resources, Sweep


def share(
    model: Model,
    batch: Batch,
    objective: Objective,
    partners: ArrayLike,
    *,
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
    memory: int = 1 << 30,
    progress: bool = False,
) -> HeadTable:
    """Give each head, one at a time, the attention pattern of its partner, and see how the objective changes.

    The head keeps its own values and output. A head whose effect is near 0 could share its partner's queries and keys
    (Bian et al. 2021; what grouped-query attention does to keys). A partner's pattern is that of the unedited run, also
    where it lies in a later layer.

    Args:
        partners: (layer, head) for every head, `[L,N,2]`; `jaxheads.compare_heads(…).nearest()` gives the most similar.
        stack, seed, level, memory, progress: as in `ablate`.

    Returns:
        One row a head, columns `effect effect_low effect_high`, and the integers `partner_layer`, `partner_head`.

    Raises:
        ValueError: for partners of another shape or that are not there, and as `ablate` does.
    """
    part = model.stack(stack)
    given = _checked(part, partners)
    model.check(batch)
    reads = objective.reads(model, batch)
    cells = grid(part, "z", batch, ("layer", "head"))
    prepared = Prepared(1, lambda _: Shared(given), 1)
    room = Resources(memory, Devices.of(None))
    sweep = Sweep.planned(model, part, batch, objective, reads, prepared, cells.steps, room)
    extras = {"partner_layer": given[..., 0], "partner_head": given[..., 1]}
    return answer(
        "share", iter([SweepAsked(sweep, cells, (given,))]), {"shared": "pattern"},
        stream=False, level=level, seed=seed, progress=progress, resume=None, extras=lambda: extras,
    )  # fmt: skip


@dataclass(frozen=True)
class Shared:
    """Each head's output with its partner's pattern; `partners` `[L,N,2]`."""

    partners: np.ndarray

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[Bank]:
        """One bank: each position of each example its own."""
        del examples
        z_LBTNH = _with_partners(sweep.network, piece, jnp.asarray(self.partners), stack=sweep.stack.name)
        L, B, T = z_LBTNH.shape[:3]
        yield Bank(z_LBTNH.reshape(L, B * T, *z_LBTNH.shape[3:]), jnp.arange(B * T).reshape(B, T))


@partial(jax.jit, static_argnames="stack")
def _with_partners(network: Network, batch: Batch, partners_LN2: Array, *, stack: str) -> Array:
    """z of every head with its partner's pattern, `[L,B,T,N,H]`; all layers' patterns of one example at a time."""

    def one(example: Batch) -> Array:
        alone = jax.tree.map(lambda field: field[None], example)
        sites = forward(network, alone, read={stack: lambda seen: {site: seen[site][0] for site in ("pattern", "v")}})
        pattern_LNTS, v_LSKH = sites[1][stack]["pattern"], sites[1][stack]["v"]
        N, K = pattern_LNTS.shape[1], v_LSKH.shape[2]

        def layer(at: tuple[Array, Array]) -> Array:
            partner_N2, v_SKH = at
            theirs_NTS = pattern_LNTS[partner_N2[:, 0], partner_N2[:, 1]]
            return jnp.einsum("nts,snh->tnh", theirs_NTS, jnp.repeat(v_SKH, N // K, axis=1))

        return jax.lax.map(layer, (partners_LN2, v_LSKH))

    return jnp.moveaxis(jax.lax.map(one, batch), 0, 1)


def _checked(part: Stack, partners: ArrayLike) -> np.ndarray:
    given, most = np.asarray(partners), np.array([part.layers, part.heads])
    if given.shape != (part.layers, part.heads, 2) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"partners: expected whole numbers (layer, head) for each head, {[part.layers, part.heads, 2]}; got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    if (given < 0).any() or (given >= most).any():
        wrong = given[((given < 0) | (given >= most)).any(axis=-1)][0]
        raise ValueError(f"partners: no head {wrong[0]}.{wrong[1]} in {part.layers} layers of {part.heads} heads")
    return given
