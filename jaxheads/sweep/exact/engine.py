"""The engine: from edited sites to the objective, computing only what the edits can change.

An edited copy differs from the unedited run only after its first edit. So it starts from the unedited run's cached
stream at that layer; in a causal stack, from the first edited column; in that layer, from the edited site. It ends with
the rows of the last layer and the columns of the unembedding that the objective reads.

Dimension key: G edited copies, B examples of a chunk, T query positions, t positions from the first that changes, S key
positions, R rows that the objective reads, L layers, N heads (K at `k` and `v`), H head dimension, D model dimension.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ...anchors import anchored, anchors_of
from ...differences import as_differences
from ...models.attention import full_tiles
from ...models.attention.row_edits import BY_QUERIES, Edit, RowEdit, unchanged
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.inputs.query_rows import Take, rows_from, rows_of_examples, taken
from ...models.network import Network
from ...models.sites import SITES, has_heads, is_of_keys
from ...models.stack import Layer, Stack, take_rows
from ...objectives import Reads, read_out
from ...programs import compiled, platform
from ..cached_run import Value, objective_values, rows_read, run_cached, stream_of


class Site(NamedTuple):
    """The structure that all copies of one compilation share; static.

    Attributes:
        stack, site: where the edits are.
        first: the first column of the batch that any edit changes, 0 where the stack is not causal.
        later: whether edits reach beyond the first edited layer.
    """

    stack: str
    site: str
    first: int = 0
    later: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UneditedRun:
    """The unedited run, as far as edited copies need it.

    Attributes:
        value: the objective `[B]`.
        rows: the last stream after its last layer at the rows that the objective reads, `[B,R,D]`.
        resid_pre: by stack on the edited stream, the input of each layer, `[L,B,T,D]`.
        z: every head's output in the edited stack, `[L,B,T,N,H]`, if `z` is what is edited.
        done: by stack, the streams `[B,T,D]` that were finished before the edited one began.
        anchors: products with the weights of each layer, each `[L,B,T,…]`, where differences are taken from them.
    """

    value: Array
    rows: Array
    resid_pre: dict[str, Array]
    z: Array | None
    done: dict[str, Array]
    anchors: tuple[Array, ...] = ()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EditedCopies:
    """The heads and positions that each copy edits; the leading axis G is that of copies.

    Attributes:
        heads: bool `[G,L,N]`: which heads of which layers; one head where a site has none.
        position: counted over real tokens, int `[G]`; -1 for all positions.
    """

    heads: Array
    position: Array


class SiteValues(Protocol):
    """Values that edits put in place of a site's own; a pytree."""

    @property
    def where(self) -> Array | None:
        """Bool with the site's axes: where values are replaced at all; None for everywhere."""
        ...

    def at(self, stack: Stack, site: str, layer: Array) -> Array | Callable[[Take], Array]:
        """Return the values in one layer, with the site's axes (1 where they broadcast).

        Of scores and patterns it may be a function that makes the chosen query rows, `[B,N,t,S]`.
        """
        ...


@partial(compiled, static_argnames=("site", "value", "keep_anchors"))
def run_unedited(
    network: Network, batch: Batch, reads: Reads, *, site: Site, value: Value, keep_anchors: bool = False
) -> UneditedRun:
    """Run the model unedited, and keep what edited copies start from."""
    wanted: dict[str, tuple[str, ...]] = {
        stack.name: ("resid_pre",) for stack in stream_of(network, site.stack).members
    }
    if site.site == "z":
        wanted[site.stack] = ("resid_pre", "z")
    run = run_cached(network, batch, wanted)
    rows_BRD = take_rows(run.last, reads.rows)
    resid_pre = {name: kept["resid_pre"] for name, kept in run.kept.items()}
    z = run.kept[site.stack].get("z")
    unedited = UneditedRun(value(read_out(network, rows_BRD, reads), reads), rows_BRD, resid_pre, z, run.done)
    return replace(unedited, anchors=_anchors(network, batch, unedited, site)) if keep_anchors else unedited


def _anchors(network: Network, batch: Batch, unedited: UneditedRun, site: Site) -> tuple[Array, ...]:
    """Return the products of positions with the weights of each layer, `[L,B,T,…]`."""
    # Layers that copies edit have their heads in the model's own order.
    edits = {site.stack: RowEdit(lambda _, x, __: x, (site.site,))} if site.later else {}
    found: list[Array] = []

    def stream(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        if stack.name == site.stack:
            resid_pre_LBTD = unedited.resid_pre[stack.name]

            def of_layer(numbered: tuple[Array, Array]) -> tuple[Array, ...]:
                blocks = stack.layer(numbered[0])
                return anchors_of(lambda x: stack.run_layer(blocks, x, context, edits)[0], numbered[1])

            found.extend(jax.lax.map(of_layer, (jnp.arange(stack.layers), resid_pre_LBTD)))
        return unedited.done.get(stack.name, x_BTD)

    # This pass only finds the stream's inputs; what else of it is not used is not compiled.
    network.hidden(batch, stream)
    return tuple(found)


@partial(compiled, static_argnames=("site", "value"))
def edited(
    network: Network,
    batch: Batch,
    reads: Reads,
    unedited: UneditedRun,
    values: SiteValues,
    copies: EditedCopies,
    start: int | Array,
    *,
    site: Site,
    value: Value,
) -> Array:
    """Return the objective `[G,B]` of each edited copy.

    Args:
        start: the first layer that any of the copies edits; traced.
    """
    # `start` is data, not structure: a static start would compile the engine once for every layer of the model.

    def run_copy(copy: EditedCopies) -> Array:
        def stream(stack: Stack, _: Array, context: AttentionInputs) -> Array | None:
            if stack.name not in unedited.resid_pre:
                return unedited.done.get(stack.name)
            run = CopyRun(stack, batch, context, unedited, values, copy, site)
            return run.stream(start, rows_read(network, stack, reads))

        return objective_values(network, batch, reads, stream, value)

    # The maths is written for one copy. `vmap` batches only what depends on `copies`: the cached streams, keys and
    # values before the first edit, and the values put in place have no axis G and are computed once for all copies.
    # A copy that edits no head is the unedited run.
    nothing = EditedCopies(jnp.zeros(copies.heads.shape[1:], bool), jnp.full((), -1, copies.position.dtype))
    return jax.vmap(as_differences(run_copy, nothing))(copies)


class CopyRun(NamedTuple):
    """One edited copy of a stream's run, with its cross-attention; `copy` has no leading axis."""

    stack: Stack
    batch: Batch
    context: AttentionInputs
    unedited: UneditedRun
    values: SiteValues
    copy: EditedCopies
    site: Site

    def stream(self, start: int | Array, rows_BR: Array | None) -> Array:
        """Return the stream after the stack: at all positions from the first, or only at rows."""
        first, last = self.site.first, self.stack.layers - 1
        # Layers before `start` are not run: their result is the unedited run's. Nor are columns before `first`.
        x_BtD = self.unedited.resid_pre[self.site.stack][start][:, first:]
        if rows_BR is None:
            return self._inner_layers(self._first_layer(x_BtD, start), start, last + 1)
        # Rows are columns of the whole batch. Those before `first` are clipped here, and set right at the end.
        own_BR = jnp.maximum(rows_BR - first, 0)

        def start_is_last(x: Array) -> Array:
            return self._first_layer(x, start, own_BR)

        def start_is_earlier(x: Array) -> Array:
            x = self._inner_layers(self._first_layer(x, start), start, last)
            return self._layer(x, last, self._later_edit(last, own_BR), own_BR)

        # The last layer is apart from the loop, because it alone computes the rows that are read and no others: another
        # shape than the loop carries. Where the first edited layer is the last one, both savings meet in one layer.
        x_BRD = jax.lax.cond(start == last, start_is_last, start_is_earlier, x_BtD)
        # Rows before the first changed column are the unedited run's.
        return x_BRD if first == 0 else jnp.where((rows_BR < first)[..., None], self.unedited.rows, x_BRD)

    def _first_layer(self, x_BtD: Array, layer: int | Array, rows_BR: Array | None = None) -> Array:
        """Run the first edited layer, from the edited site on."""
        # With `z` known, nothing before it in the layer is used: XLA drops its queries, keys, values and attention.
        known = None if self.unedited.z is None else self.unedited.z[layer]
        # An edited cross-attention starts behind its layer's self-attention, where its cached input was taken.
        cross_only = self.site.stack != self.stack.name

        def run(own: CopyRun, x: Array) -> Array:
            return own._layer(x, layer, own._edit(layer, rows_BR, known), rows_BR, cross_only=cross_only)

        # Rows alone have other products, and layers that nothing edits may have their heads in another order.
        whole = rows_BR is None and not full_tiles.pays(self.stack.blocks.attention)
        return self._anchored(x_BtD, layer, run) if whole else run(self, x_BtD)

    def _inner_layers(self, x_BtD: Array, start: int | Array, stop: int) -> Array:
        """Run the layers after the first edited one, up to `stop`."""

        def step(layer: Array, x: Array) -> Array:
            return self._anchored(x, layer, lambda own, x: own._layer(x, layer, own._later_edit(layer)))

        return jax.lax.fori_loop(start + 1, stop, step, x_BtD)

    def _anchored(self, x_BtD: Array, layer: int | Array, run: Callable[["CopyRun", Array], Array]) -> Array:
        """Return what `run` gives of one whole layer, from the unedited run's products if these are kept."""
        # Each group of copies would compute the unedited run again: what its products with weights gave is kept.
        anchors = [anchor[layer][:, self.site.first :] for anchor in self.unedited.anchors]
        if not anchors:
            return run(self, x_BtD)
        return anchored(lambda x, copy: run(self._replace(copy=copy), x), anchors, x_BtD, self.copy)

    def edited_layer(self, x_BtD: Array, layer: int | Array, rows_BR: Array | None = None) -> Array:
        """Run one layer, whichever it is, with what this copy edits in it."""
        return self._layer(x_BtD, layer, self._edit(layer, rows_BR), rows_BR)

    def _layer(
        self, x_BtD: Array, layer: int | Array, edit: Edit, rows_BR: Array | None = None, *, cross_only: bool = False
    ) -> Array:
        blocks, first = self._weights(layer), self.site.first
        before = None
        if first and not cross_only:
            # Columns before `first` are as in the unedited run: their keys and values come from its cached stream, the
            # same for all copies, and later columns attend to them.
            prefix_BPD = self.unedited.resid_pre[self.stack.name][layer][:, :first]
            before = blocks.own.keys_values(prefix_BPD, self.context.own_keys[:, :first])
        edits, context = {self.site.stack: edit}, self.context.after(first)
        return self.stack.run_layer(
            blocks, x_BtD, context, edits, before=before, rows_BR=rows_BR, cross_only=cross_only
        )[0]

    def _weights(self, layer: int | Array) -> Layer:
        """Return the weights of one layer."""
        blocks = self.stack.layer(layer)
        if isinstance(layer, int) or not self.unedited.anchors or platform() != "tpu":
            return blocks
        # XLA would turn a layer's slice in bfloat16 into one of a whole stack in bfloat16, made anew by each program,
        # which takes longer than the layers. It does not know that this factor is 1.
        factor = jnp.where(layer < 0, jnp.float32(0), jnp.float32(1))
        return jax.tree.map(lambda x: x * factor if x.dtype == factor.dtype else x, blocks)

    def _later_edit(self, layer: int | Array, rows_BR: Array | None = None) -> Edit:
        return self._edit(layer, rows_BR) if self.site.later else unchanged

    def _edit(self, layer: int | Array, rows_BR: Array | None, known: Array | None = None) -> Edit:
        """Return the edit of one layer; `known` is the site's unedited value, where it need not be computed."""

        # Outside of the blocks that attention may run in: what all of them need is computed once.
        values, where = self.values.at(self._edited_stack, self.site.site, jnp.asarray(layer)), self.values.where
        masks = [self._mask(layer), *([] if where is None else [where])]

        def edit(site: str, x: Array, take: Take | None) -> Array:
            if site in BY_QUERIES:
                own = partial(self._own_rows, rows_BR, take)
                new = values(own) if callable(values) else taken(values, own, 2)
                # Masks are joined here, of few rows: together they have as many entries as the pattern.
                return jnp.where(_all(taken(mask, own, 2) for mask in masks), new.astype(x.dtype), x)
            assert not callable(values), "functions are of scores and patterns"
            new, chosen = (slice_site(array, self.site, rows_BR) for array in (values.astype(x.dtype), _all(masks)))
            return jnp.where(chosen, new, x if known is None else slice_site(known, self.site, rows_BR))

        return RowEdit(edit, (self.site.site,))

    def _own_rows(self, rows_BR: Array | None, take: Take | None, x: Array, axis: int) -> Array:
        """Return the query rows that this run computes: from the first, of these those read, of these a block's."""
        x = rows_from(self.site.first)(x, axis)
        x = x if rows_BR is None else rows_of_examples(rows_BR)(x, axis)
        return x if take is None else take(x, axis)

    @property
    def _edited_stack(self) -> Stack:
        return next(stack for stack in self.stack.members if stack.name == self.site.stack)

    def _mask(self, layer: int | Array) -> Array:
        """Return which heads and positions this copy edits, bool with the site's axes."""
        site, heads_N = self.site.site, self.copy.heads[layer]
        positions = self._edited_stack.positions_at(site, self.batch)
        chosen_BT = (self.copy.position < 0) | (positions.mask & (positions.positions == self.copy.position))
        if SITES[site] == "BNTS":
            return chosen_BT[:, None, :, None] & heads_N[None, :, None, None]
        if has_heads(site):
            return chosen_BT[:, :, None, None] & heads_N[None, None, :, None]
        return chosen_BT[:, :, None] & heads_N[None, None, :]


def _all(masks: Iterable[Array]) -> Array:
    """Return where all masks are true."""
    return reduce(jnp.logical_and, masks)


def slice_site(x: Array, site: Site, rows_BR: Array | None) -> Array:
    """Return the part of a site's values that a run from `site.first` on computes; of it, only the rows."""
    # Keys and values are those of all positions, before `first` too: `run_layer` puts them together.
    if is_of_keys(site.site):
        return x
    axis = SITES[site.site].index("T")
    if x.shape[axis] == 1:
        return x
    x = jax.lax.slice_in_dim(x, site.first, x.shape[axis], axis=axis)
    # The input of the last layer is needed at all positions, since they are its keys.
    if rows_BR is None or site.site == "resid_pre":
        return x
    return jax.vmap(lambda example, rows: jnp.take(example, rows, axis=axis - 1), in_axes=(0, 0))(x, rows_BR)
