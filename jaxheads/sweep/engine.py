"""The engine: from edited sites to the objective, computing only what the edits can change.

Layers before the first edit are not run: their result is the clean run's cached stream. In a causal stack positions
before the first edited one are not run either: later ones look at their clean keys and values. In the first edited
layer, only what follows the edited site is run for each copy: the maths is written for one copy and `vmap` leaves alone
what no edit touches. All copies then go through the later layers in one loop whose start is traced, so that one
compilation serves every layer. Of the last layer only the rows that the objective reads are computed, and of the
unembedding only the columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ..models.attention import Edit, unchanged
from ..models.batch import Batch, Context
from ..models.model import Network, forward
from ..models.stack import Stack, run_block, take_rows
from ..objectives import Reads, read_out

Value = Callable[[Array, Reads], Array]

PATTERN_SITES = ("scores", "pattern")
KEY_SITES = ("k", "v")
HEAD_SITES = ("q", "z", *KEY_SITES, *PATTERN_SITES)


class Site(NamedTuple):
    """What all copies of one compilation have in common.

    Attributes:
        stack, site: where the edits are.
        first: the first position (column of the batch) that any edit changes, 0 where the stack is not causal.
        later: whether edits reach beyond the first edited layer.
    """

    stack: str
    site: str
    first: int = 0
    later: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clean:
    """What a sweep needs of the unedited run.

    Attributes:
        value: the objective `[B]`.
        rows: the stream after the last stack at the rows that the objective reads, `[B,R,D]`.
        resid_pre: the stream before each layer of the edited stack, `[L,B,T,D]`.
        z: every head's output there, `[L,B,T,N,H]`, if `z` is what is edited.
    """

    value: Array
    rows: Array
    resid_pre: Array
    z: Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cells:
    """Edited copies, the leading axis G: each has the source's values at some heads, at one position or at all.

    Attributes:
        heads: bool `[G,L,N]`: which heads of which layers; K for N at `k` and `v`, 1 where a site has no heads.
        position: counted over real tokens, int `[G]`; -1 for all.
    """

    heads: Array
    position: Array


class Source(Protocol):
    """What edits put in place of a site's value; a pytree."""

    @property
    def where(self) -> Array | None:
        """With the site's axes: where values are replaced at all; None for everywhere."""
        ...

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """The values in one layer, with the site's axes (1 where they broadcast)."""
        ...


@partial(jax.jit, static_argnames=("site", "value"))
def run_clean(network: Network, batch: Batch, reads: Reads, *, site: Site, value: Value) -> Clean:
    """The unedited run, with the cache that edited runs start from."""
    wanted = ("resid_pre", "z") if site.site == "z" else ("resid_pre",)
    x_BTD, kept = forward(network, batch, read=lambda seen: {name: seen.get(name) for name in wanted})
    rows_BRD, cache = take_rows(x_BTD, reads.rows), kept[site.stack]
    return Clean(value(read_out(network, rows_BRD, reads), reads), rows_BRD, cache["resid_pre"], cache.get("z"))


@partial(jax.jit, static_argnames=("site", "value"))
def edited(
    network: Network,
    batch: Batch,
    reads: Reads,
    clean: Clean,
    source: Source,
    cells: Cells,
    start: int | Array,
    *,
    site: Site,
    value: Value,
) -> Array:
    """The objective `[G,B]` of each edited copy; `start`, the first layer that any of them edits, is traced."""

    def one(cell: Cells) -> Array:
        def through(stack: Stack, x: Array, context: Context) -> Array:
            final = stack.name == network.stacks[-1].name
            if stack.name == site.stack:
                copy = _Copy(stack, batch, context, clean, source, cell, site)
                return copy.run(start, reads.rows if final else None)
            x = stack.run(x, context)[0]
            return take_rows(x, reads.rows) if final else x

        return value(read_out(network, network.hidden(batch, through), reads), reads)

    return jax.vmap(one)(cells)


class _Copy(NamedTuple):
    """One edited copy of the stack's run; `cell` has lost its leading axis."""

    stack: Stack
    batch: Batch
    context: Context
    clean: Clean
    source: Source
    cell: Cells
    site: Site

    def run(self, start: int | Array, rows_BR: Array | None) -> Array:
        """The stream after the stack; only at `rows`, if they are given."""
        first, last = self.site.first, self.stack.layers - 1
        x_BtD = self.clean.resid_pre[start][:, first:]
        if rows_BR is None:
            return self._loop(self._start(x_BtD, start), start, last + 1)
        own_BR = jnp.maximum(rows_BR - first, 0)

        def in_the_last(x: Array) -> Array:
            return self._start(x, start, own_BR)

        def before_it(x: Array) -> Array:
            return self._layer(self._loop(self._start(x, start), start, last), last, self._later(last, own_BR), own_BR)

        x_BRD = jax.lax.cond(start == last, in_the_last, before_it, x_BtD)
        return x_BRD if first == 0 else jnp.where((rows_BR < first)[..., None], self.clean.rows, x_BRD)

    def _start(self, x_BtD: Array, layer: int | Array, rows_BR: Array | None = None) -> Array:
        """The first edited layer: what no edit touches is the clean run's, the same for all copies."""
        known = None if self.clean.z is None else self.clean.z[layer]
        return self._layer(x_BtD, layer, self._edit(layer, rows_BR, known), rows_BR)

    def _later(self, layer: int | Array, rows_BR: Array | None = None) -> Edit:
        return self._edit(layer, rows_BR) if self.site.later else unchanged

    def _loop(self, x_BtD: Array, start: int | Array, stop: int) -> Array:
        def step(layer: Array, x: Array) -> Array:
            return self._layer(x, layer, self._later(layer))

        return jax.lax.fori_loop(start + 1, stop, step, x_BtD)

    def _layer(self, x_BtD: Array, layer: int | Array, edit: Edit, rows_BR: Array | None = None) -> Array:
        block, first = self.stack.block(layer), self.site.first
        before = None
        if first:
            prefix_BPD = self.clean.resid_pre[layer][:, :first]
            before = block.keys_values(prefix_BPD, self.context.keys[:, :first])
        return run_block(block, x_BtD, self.context.after(first), edit, before=before, rows_BR=rows_BR)[0]

    def _edit(self, layer: int | Array, rows_BR: Array | None, known: Array | None = None) -> Edit:
        """The edit of one layer. `known` is the site's clean value, where it need not be computed."""

        def look(x: Array) -> Array:
            return look_at(x, self.site, rows_BR)

        def edit(name: str, x: Array) -> Array:
            if name != self.site.site:
                return x
            source = look(self.source.at(self.stack, name, jnp.asarray(layer)).astype(x.dtype))
            return jnp.where(look(self._mask(layer)), source, x if known is None else look(known))

        return edit

    def _mask(self, layer: int | Array) -> Array:
        """Where this copy is edited, with the site's axes."""
        name, heads_N = self.site.site, self.cell.heads[layer]
        here_BT = (self.cell.position < 0) | (self.batch.mask & (self.batch.positions == self.cell.position))
        if name in PATTERN_SITES:
            mask = here_BT[:, None, :, None] & heads_N[None, :, None, None]
        elif name in HEAD_SITES:
            mask = here_BT[:, :, None, None] & heads_N[None, None, :, None]
        else:
            mask = here_BT[:, :, None] & heads_N[None, None, :]
        return mask if self.source.where is None else mask & self.source.where


def look_at(x: Array, site: Site, rows_BR: Array | None) -> Array:
    """Of something with a site's axes at all positions, what a run from `site.first` on sees; of it, only the rows."""
    if site.site in KEY_SITES:
        return x
    axis = 2 if site.site in PATTERN_SITES else 1
    if x.shape[axis] == 1:
        return x
    x = jax.lax.slice_in_dim(x, site.first, x.shape[axis], axis=axis)
    if rows_BR is None or site.site == "resid_pre":
        return x
    return jax.vmap(lambda one, rows: jnp.take(one, rows, axis=axis - 1), in_axes=(0, 0))(x, rows_BR)
