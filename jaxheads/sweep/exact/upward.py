"""One upward pass for the edited copies of all layers: a copy joins the others at the first layer that it edits.

Copies that start at one layer are a group, and the engine runs group by group: nothing is computed twice, but a layer's
weights are read once for each group below it. Where a question is so small that a group does not fill a matrix product,
all copies go up together. They join in a few steps: between two of them the number of copies, a shape, stays the same,
and copies that wait for their layer run unedited.

Dimension key: C edited copies, B examples of a chunk, t positions from the first that changes, R rows that the
objective reads, D model dimension.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.stack import Stack
from ...objectives import Reads
from ...programs import compiled
from ..cached_run import Value, objective_values, rows_read
from .engine import CopyRun, EditedCopies, Site, SiteValues, UneditedRun

JOINS = 4
"""Steps in which copies join: each is a loop of its own to compile, and fewer leave more copies waiting."""


class Join(NamedTuple):
    """Layers through which the number of copies stays the same; static.

    Attributes:
        layers: the first of them, and the one after the last.
        copies: how many of the copies run, those that start below the last of these layers.
    """

    layers: tuple[int, int]
    copies: int


def joins(starts: Sequence[int] | np.ndarray, layers: int, count: int = JOINS) -> tuple[Join, ...]:
    """Return the joins of copies that start at these layers, in ascending order, below a number of layers."""
    bounds = np.unique(np.linspace(starts[0], layers, count + 1).round().astype(int)).tolist()
    waiting = np.searchsorted(starts, bounds, side="left").tolist()
    return tuple(Join((low, high), copies) for low, high, copies in zip(bounds, bounds[1:], waiting[1:], strict=False))


@partial(compiled, static_argnames=("site", "value", "joins"))
def edited_upward(
    network: Network,
    batch: Batch,
    reads: Reads,
    unedited: UneditedRun,
    values: SiteValues,
    copies: EditedCopies,
    starts: Array,
    *,
    site: Site,
    joins: tuple[Join, ...],
    value: Value,
) -> Array:
    """Return the objective `[C,B]` of each edited copy, as `engine.edited` does group by group.

    Args:
        starts: the first layer that each copy edits, ascending, `[C]`.
        joins: as `joins` gives them for the inner layers, all but the last where the objective reads its rows.
    """
    ends: list[Array] = []

    def run_up(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        if stack.name not in unedited.resid_pre:
            return unedited.done.get(stack.name, x_BTD)
        run = partial(CopyRun, stack, batch, context, unedited, values, site=site)
        ends.append(_upward(run, copies, starts, joins, rows_read(network, stack, reads)))
        return x_BTD

    # This pass only finds the stream's inputs; what else of it is not used is not compiled.
    network.hidden(batch, run_up)

    def read_copy(end: Array) -> Array:
        def stream(stack: Stack, _: Array, context: AttentionInputs) -> Array | None:
            del context
            return end if stack.name in unedited.resid_pre else unedited.done.get(stack.name)

        return objective_values(network, batch, reads, stream, value)

    return jax.vmap(read_copy)(ends[0])


def _upward(
    run: partial[CopyRun], copies: EditedCopies, starts: Array, joins: tuple[Join, ...], rows_BR: Array | None
) -> Array:
    """Return the stream after the stack of every copy: at all positions from the first, `[C,B,t,D]`, or at rows."""
    whole = run(copy=copies)
    first, resid_pre = whole.site.first, whole.unedited.resid_pre[whole.stack.name]

    def entry(layer: int | Array) -> Array:
        return resid_pre[layer][:, first:]

    def rise(layers: tuple[int, int], copy: EditedCopies, start: Array, x_BtD: Array) -> Array:
        own = run(copy=copy)

        def step(layer: Array, x: Array) -> Array:
            # A copy takes the cached stream where it joins: what it ran before is the same but for rounding.
            return own.edited_layer(jnp.where(start == layer, entry(layer), x), layer)

        return jax.lax.fori_loop(*layers, step, x_BtD)

    x_CBtD = jnp.zeros((0, *entry(0).shape), resid_pre.dtype)
    for join in joins:
        new = jnp.broadcast_to(entry(join.layers[0]), (join.copies - len(x_CBtD), *x_CBtD.shape[1:]))
        x_CBtD = jnp.concatenate([x_CBtD, new])
        joined, own_starts = jax.tree.map(lambda array, count=join.copies: array[:count], (copies, starts))
        x_CBtD = jax.vmap(partial(rise, join.layers))(joined, own_starts, x_CBtD)
    if rows_BR is None:
        return x_CBtD
    # The last layer runs at the rows that are read and no others, which is another shape than the loops carry.
    last, own_BR = whole.stack.layers - 1, jnp.maximum(rows_BR - first, 0)
    new = jnp.broadcast_to(entry(last), (len(starts) - len(x_CBtD), *x_CBtD.shape[1:]))

    def finish(copy: EditedCopies, start: Array, x_BtD: Array) -> Array:
        return run(copy=copy).edited_layer(jnp.where(start == last, entry(last), x_BtD), last, own_BR)

    x_CBRD = jax.vmap(finish)(copies, starts, jnp.concatenate([x_CBtD, new]))
    return x_CBRD if first == 0 else jnp.where((rows_BR < first)[..., None], whole.unedited.rows, x_CBRD)
