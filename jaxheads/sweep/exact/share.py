"""Shared patterns: whether another head's attention can do a head's work, and what that costs."""

from collections.abc import Iterator
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.lengths import Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...objectives import Objective
from ...programs import compiled, to_device
from ...reads import reads_of
from ..grid import site_grid
from ..question import Question, sweep
from .plan import edit_groups
from .replacement import HeadValues, OneValue
from .work import Chunk, exact


@sweep
def share(
    model: Model, batch: Batch | Texts, objective: Objective, partners: ArrayLike, **options: Unpack[Options]
) -> Iterator[Question]:
    """Give each head, one at a time, the attention pattern of its partner, and return how the objective changes.

    The head keeps its own values and output. A head whose effect is near 0 could share its partner's queries and keys
    (Bian et al. 2021; what grouped-query attention does to keys). A partner's pattern is that of the unedited run, also
    where it lies in a later layer.

    Args:
        partners: (layer, head) for every head, `[L,N,2]`; `jaxheads.compare_heads(…).nearest()` gives the most similar.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a head, columns `effect effect_low effect_high`, and the integers `partner_layer`, `partner_head`.

    Raises:
        ValueError: for partners of another shape or that are not there, and as `ablate` does.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    partners_LN2 = _checked(stack, partners)
    model.check(batch)
    grid = site_grid(stack, "z", batch, ("layer", "head"))
    reads, lengths = reads_of(objective, model, batch), Lengths(model)
    reads, batch = lengths.read(objective, reads, batch, runs=sweep_runs(grid.size))
    yield exact(
        model,
        stack,
        batch,
        objective,
        reads,
        (grid, edit_groups(stack, "z", batch, grid)),
        PartnerPatterns(partners_LN2),
        resources,
        identity=(partners_LN2,),
        about={"shared": "pattern"},
        extras={"partner_layer": partners_LN2[..., 0], "partner_head": partners_LN2[..., 1]},
    )


class PartnerPatterns(OneValue):
    """A source of each head's output with its partner's pattern; `partners` `[L,N,2]`."""

    runs = 1

    def __init__(self, partners: np.ndarray):
        self.partners = partners

    def of(self, chunk: Chunk) -> Iterator[HeadValues]:
        """Yield these examples' outputs, each position's own."""
        partners_LN2 = to_device(self.partners)
        z_LBTNH = _with_partner_patterns(chunk.network, chunk.batch, partners_LN2, stack=chunk.stack.name)
        L, B, T = z_LBTNH.shape[:3]
        yield HeadValues(z_LBTNH.reshape(L, B * T, *z_LBTNH.shape[3:]), jnp.arange(B * T).reshape(B, T))


@partial(compiled, static_argnames="stack")
def _with_partner_patterns(network: Network, batch: Batch, partners_LN2: Array, *, stack: str) -> Array:
    """Return z of every head with its partner's pattern, `[L,B,T,N,H]`."""

    # A partner may lie in a later layer, so all layers' patterns are held: of one example at a time.
    def run_example(example: Batch) -> Array:
        alone = jax.tree.map(lambda field: field[None], example)
        read = {stack: lambda sites: {site: sites[site][0] for site in ("pattern", "v")}}
        sites = forward(network, alone, read=read)[1][stack]
        pattern_LNTS, v_LSKH = sites["pattern"], sites["v"]
        group = pattern_LNTS.shape[1] // v_LSKH.shape[2]

        def run_layer(layer: tuple[Array, Array]) -> Array:
            partner_N2, v_SKH = layer
            partner_NTS = pattern_LNTS[partner_N2[:, 0], partner_N2[:, 1]]
            return jnp.einsum("nts,snh->tnh", partner_NTS, jnp.repeat(v_SKH, group, axis=1))

        return jax.lax.map(run_layer, (partners_LN2, v_LSKH))

    return jnp.moveaxis(jax.lax.map(run_example, batch), 0, 1)


def _checked(stack: Stack, partners: ArrayLike) -> np.ndarray:
    partners, limits = np.asarray(partners), np.array([stack.layers, stack.heads])
    if partners.shape != (stack.layers, stack.heads, 2) or not np.issubdtype(partners.dtype, np.integer):
        raise ValueError(
            f"partners: expected whole numbers (layer, head) for each head, {[stack.layers, stack.heads, 2]}; got "
            f"{partners.dtype} of shape {list(partners.shape)}"
        )
    outside = (partners < 0) | (partners >= limits)
    if outside.any():
        layer, head = partners[outside.any(axis=-1)][0]
        raise ValueError(f"partners: no head {layer}.{head} in {stack.layers} layers of {stack.heads} heads")
    return partners
