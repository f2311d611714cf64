"""The engine: from edited sites to the objective, computing only what the edits can change.

Layers before the first edit are not run: their result is the clean run's cached stream. In a causal stack positions
before the first edited one are not run either: later ones look at their clean keys and values. In the first edited
layer, only what follows the edited site is run for each copy: the maths is written for one copy and `vmap` leaves alone
what no edit touches. All copies then go through the later layers in one loop whose start is traced, so that one
compilation serves every layer. Of the last layer only the rows that the objective reads are computed, and of the
unembedding only the columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ...models.attention import Edit, unchanged
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.network import Network
from ...models.sites import SITES, has_heads, is_of_keys
from ...models.stack import Sites, Stack, take_rows
from ...objectives import Reads, read_out

Value = Callable[[Array, Reads], Array]


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
class UneditedRun:
    """What a sweep needs of the unedited run.

    Attributes:
        value: the objective `[B]`.
        rows: the last stream after its last layer at the rows that the objective reads, `[B,R,D]`.
        resid_pre: by stack, of those on the edited stream, what each layer reads, `[L,B,T,D]`.
        z: every head's output in the edited stack, `[L,B,T,N,H]`, if `z` is what is edited.
        done: by stack, the streams `[B,T,D]` that were finished before the edited one began.
    """

    value: Array
    rows: Array
    resid_pre: dict[str, Array]
    z: Array | None
    done: dict[str, Array]


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
def run_unedited(network: Network, batch: Batch, reads: Reads, *, site: Site, value: Value) -> UneditedRun:
    """The unedited run, with the cache that edited runs start from."""
    wanted: dict[str, tuple[str, ...]] = {
        stack.name: ("resid_pre",) for stack in stream_of(network, site.stack).members
    }
    if site.site == "z":
        wanted[site.stack] = ("resid_pre", "z")
    run = run_cached(network, batch, wanted)
    rows_BRD = take_rows(run.last, reads.rows)
    resid_pre = {name: kept["resid_pre"] for name, kept in run.kept.items()}
    z = run.kept[site.stack].get("z")
    return UneditedRun(value(read_out(network, rows_BRD, reads), reads), rows_BRD, resid_pre, z, run.done)


@partial(jax.jit, static_argnames=("site", "value"))
def edited(
    network: Network,
    batch: Batch,
    reads: Reads,
    clean: UneditedRun,
    source: Source,
    cells: Cells,
    start: int | Array,
    *,
    site: Site,
    value: Value,
) -> Array:
    """The objective `[G,B]` of each edited copy; `start`, the first layer that any of them edits, is traced."""

    def one(cell: Cells) -> Array:
        def stream(stack: Stack, _: Array, context: AttentionInputs) -> Array | None:
            if stack.name not in clean.resid_pre:
                return clean.done.get(stack.name)
            copy = _Copy(stack, batch, context, clean, source, cell, site)
            return copy.run(start, rows_read(network, stack, reads))

        return objective_values(network, batch, reads, stream, value)

    return jax.vmap(one)(cells)


class CachedRun(NamedTuple):
    """A run, with what was kept of it.

    Attributes:
        last: the model's last stream after its last layer, `[B,T,D]`.
        end: the same of the stream that something was kept of.
        kept: by stack and site, layers first.
        done: by stack, the streams `[B,T,D]` that were finished before that one began.
    """

    last: Array
    end: Array
    kept: dict[str, dict[str, Array]]
    done: dict[str, Array]


def run_cached(network: Network, batch: Batch, sites: Mapping[str, tuple[str, ...]]) -> CachedRun:
    """An unedited run that keeps these sites, by stack, of the stacks on one stream."""

    def keep(seen: Sites, wanted: tuple[str, ...]) -> dict[str, Array]:
        return {site: seen[site] for site in wanted}

    readers = {name: partial(keep, wanted=wanted) for name, wanted in sites.items()}
    done: dict[str, Array] = {}
    ends: list[Array] = []
    kept: dict[str, dict[str, Array]] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, found = stack.run(x_BTD, context, read=readers)
        kept.update(found)
        if found:
            ends.append(x_BTD)
        elif not ends:
            done[stack.name] = x_BTD
        return x_BTD

    last_BTD = network.hidden(batch, run_stack)
    return CachedRun(last_BTD, ends[0], kept, done)


def objective_values(
    network: Network,
    batch: Batch,
    reads: Reads,
    stream: Callable[[Stack, Array, AttentionInputs], Array | None],
    value: Value,
) -> Array:
    """The objective `[B]` of a run where `stream` gives what follows a stack, or None for the stack to be run."""

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        known = stream(stack, x_BTD, context)
        if known is not None:
            return known
        x_BTD, rows_BR = stack.run(x_BTD, context)[0], rows_read(network, stack, reads)
        return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)

    return value(read_out(network, network.hidden(batch, run_stack), reads), reads)


def end_of(network: Network, stack: str) -> str:
    """What reads the end of a stack's stream: the "logits", or as "memory" the stacks that follow."""
    return "logits" if stream_of(network, stack).name == network.streams[-1].name else "memory"


def rows_read(network: Network, stack: Stack, reads: Reads) -> Array | None:
    """What is needed of the stream after a stack: the rows `[B,R]` that the objective reads; None for everything, where
    other streams follow."""
    return reads.rows if stack.name == network.streams[-1].name else None


def stream_of(network: Network, name: str) -> Stack:
    """The stack on whose stream the named one is: itself, or the one that its cross-attention goes with."""
    return next(stack for stack in network.streams if name in [member.name for member in stack.members])


class _Copy(NamedTuple):
    """One edited copy of a stream's run, with its cross-attention; `cell` has lost its leading axis."""

    stack: Stack
    batch: Batch
    context: AttentionInputs
    clean: UneditedRun
    source: Source
    cell: Cells
    site: Site

    def run(self, start: int | Array, rows_BR: Array | None) -> Array:
        """The stream after the stack; only at `rows`, if they are given."""
        first, last = self.site.first, self.stack.layers - 1
        x_BtD = self.clean.resid_pre[self.site.stack][start][:, first:]
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
        here = self.site.stack != self.stack.name
        return self._layer(x_BtD, layer, self._edit(layer, rows_BR, known), rows_BR, cross_only=here)

    def _later(self, layer: int | Array, rows_BR: Array | None = None) -> Edit:
        return self._edit(layer, rows_BR) if self.site.later else unchanged

    def _loop(self, x_BtD: Array, start: int | Array, stop: int) -> Array:
        def step(layer: Array, x: Array) -> Array:
            return self._layer(x, layer, self._later(layer))

        return jax.lax.fori_loop(start + 1, stop, step, x_BtD)

    def _layer(
        self, x_BtD: Array, layer: int | Array, edit: Edit, rows_BR: Array | None = None, *, cross_only: bool = False
    ) -> Array:
        blocks, first = self.stack.layer(layer), self.site.first
        before = None
        if first and not cross_only:
            prefix_BPD = self.clean.resid_pre[self.stack.name][layer][:, :first]
            before = blocks.own.keys_values(prefix_BPD, self.context.own_keys[:, :first])
        edits, context = {self.site.stack: edit}, self.context.after(first)
        return self.stack.run_layer(
            blocks, x_BtD, context, edits, before=before, rows_BR=rows_BR, cross_only=cross_only
        )[0]

    def _edit(self, layer: int | Array, rows_BR: Array | None, known: Array | None = None) -> Edit:
        """The edit of one layer. `known` is the site's clean value, where it need not be computed."""

        def look(x: Array) -> Array:
            return slice_site(x, self.site, rows_BR)

        def edit(name: str, x: Array) -> Array:
            if name != self.site.site:
                return x
            source = look(self.source.at(self._edited, name, jnp.asarray(layer)).astype(x.dtype))
            return jnp.where(look(self._mask(layer)), source, x if known is None else look(known))

        return edit

    @property
    def _edited(self) -> Stack:
        return next(stack for stack in self.stack.members if stack.name == self.site.stack)

    def _mask(self, layer: int | Array) -> Array:
        """Where this copy is edited, with the site's axes."""
        name, heads_N = self.site.site, self.cell.heads[layer]
        side = self._edited.positions_at(name, self.batch)
        here_BT = (self.cell.position < 0) | (side.mask & (side.positions == self.cell.position))
        if SITES[name] == "BNTS":
            mask = here_BT[:, None, :, None] & heads_N[None, :, None, None]
        elif has_heads(name):
            mask = here_BT[:, :, None, None] & heads_N[None, None, :, None]
        else:
            mask = here_BT[:, :, None] & heads_N[None, None, :]
        return mask if self.source.where is None else mask & self.source.where


def slice_site(x: Array, site: Site, rows_BR: Array | None) -> Array:
    """Of something with a site's axes at all positions, what a run from `site.first` on sees; of it, only the rows."""
    if is_of_keys(site.site):
        return x
    axis = SITES[site.site].index("T")
    if x.shape[axis] == 1:
        return x
    x = jax.lax.slice_in_dim(x, site.first, x.shape[axis], axis=axis)
    if rows_BR is None or site.site == "resid_pre":
        return x
    return jax.vmap(lambda one, rows: jnp.take(one, rows, axis=axis - 1), in_axes=(0, 0))(x, rows_BR)
