"""Stacks of layers, run in one scan; and a single layer, at all positions, from one position on, or at chosen rows.

Weights have a leading layer axis and layers are scanned, so one compilation serves every layer. A reader is a function
of one layer's sites, evaluated in that layer, so memory does not grow with the number of layers.

A decoder with cross-attention is two stacks whose layers alternate on one stream: that of self-attention, and as its
`cross` that of cross-attention.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .attention import full_tiles
from .attention.lazy_sites import LazySites
from .attention.row_blocks import read_whole
from .attention.row_edits import Edit, unchanged
from .attention.row_reader import InLayer, RowReader
from .blocks import Block
from .gathering import Gather, used
from .inputs.attention_inputs import AttentionInputs
from .inputs.axes import TOKENS, Axis
from .inputs.batch import Batch, Positions
from .sites import SITES, SiteEdit, editor, has_heads, is_of_keys
from .spreading import gathered, spread

Sites = Mapping[str, Array]
"""Values at one layer's sites, by name."""

_READ = "read by rows"
"""Name under which a layer's sites hold what a `RowReader` returned."""

KeysValues = Callable[[Block, Array, AttentionInputs], tuple[Array, Array]]
"""Function of a block, its stream and what its attention reads beside it that returns keys and values `[B,S,K,H]`."""

Reader = Callable[[LazySites], Any] | RowReader
"""What reads one layer's sites, with its number as "layer", and returns what to keep, any pytree of arrays.

A function of the sites, or a `RowReader` of the pattern: scores and patterns that a function reads are whole."""


@dataclass(frozen=True)
class HeadWeights:
    """Weights of every head, in one form for all families, layers first; biases may be None.

    W_Q `[L,N,D,H]`, W_K and W_V `[L,K,D,H]`, W_O `[L,N,H,D]`; b_Q `[L,N,H]`, b_K and b_V `[L,K,H]`, b_O `[L,D]`.
    W_O and b_O include the factor on the heads' sum (LayerScale, Granite's constant) in families that have it.
    """

    W_Q: Array
    W_K: Array
    W_V: Array
    W_O: Array
    b_Q: Array | None
    b_K: Array | None
    b_V: Array | None
    b_O: Array | None


class Layer(NamedTuple):
    """One layer's block, and the block of the cross-attention that follows it, or None."""

    own: Block
    cross: Block | None


class Stack(nnx.Module):
    """Layers of one kind under one name.

    Args:
        name: "decoder", "encoder", "cross", …
        layers: number of layers, L.
        make: builds one block from random streams and, with `settings`, the settings of its layer.
        causal: whether a query sees only keys at its own and earlier positions.
        queries, keys: axes of the query positions and of the key positions; `keys` is `queries` when left out.
        settings: arrays with a leading layer axis, passed to `make` one layer at a time.
        sharing: for each layer the number of the block whose weights it uses, where layers share weights (ALBERT).
        cross: the stack of the cross-attention that follows each layer.

    `gather` is the place of a layer's weights while the layer runs, where they rest in shares on a mesh; else None.

    Raises:
        ValueError: for less than one layer, or a `cross` with another number of layers.
    """

    gather: Gather | None = None

    def __init__(
        self,
        name: str,
        layers: int,
        make: Callable[..., Any],
        *,
        rngs: nnx.Rngs,
        causal: bool,
        queries: Axis = TOKENS,
        keys: Axis | None = None,
        settings: Mapping[str, np.ndarray | Array] | None = None,
        sharing: tuple[int, ...] | None = None,
        cross: "Stack | None" = None,
    ):
        if layers < 1:
            raise ValueError(f"a stack needs at least one layer, got {layers}")
        if cross is not None and cross.layers != layers:
            raise ValueError(f"cross-attention follows layer by layer, but there are {layers} and {cross.layers}")
        self.name = name
        self.layers = layers
        self.causal = causal
        self.queries = queries
        self.keys = queries if keys is None else keys
        self.sharing = sharing
        blocks = layers if sharing is None else max(sharing) + 1
        arrays = () if settings is None else ({key: jnp.asarray(value) for key, value in settings.items()},)
        self.blocks = nnx.split_rngs(splits=blocks)(nnx.vmap(make))(rngs, *arrays)
        self.cross = cross

    @property
    def heads(self) -> int:
        """N, the number of query heads of a layer."""
        return self.blocks.attention.W_Q.shape[-2]

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads of a layer; N where removed heads left groups of different sizes."""
        attention = self.blocks.attention
        return attention.W_K.shape[-2] if attention.key_heads is None else self.heads

    @property
    def groups(self) -> int:
        """The number of groups of query heads that share keys and values: K as the weights have it."""
        return self.blocks.attention.W_K.shape[-2]

    @property
    def group_of_heads(self) -> np.ndarray:
        """The key/value head that each query head reads, `[L,N]`."""
        attention = self.blocks.attention
        if attention.key_heads is not None:
            return np.asarray(attention.key_heads[...])
        return np.broadcast_to(np.arange(self.heads) // (self.heads // self.groups), (self.layers, self.heads))

    @property
    def head_size(self) -> int:
        """H, the dimension of a head."""
        return self.blocks.attention.W_Q.shape[-1]

    @property
    def width(self) -> int:
        """D, the dimension of the stream."""
        return self.blocks.attention.W_O.shape[-1]

    @property
    def sinks(self) -> Array | None:
        """Each head's learnt score without a key, `[L,N]` (GPT-OSS); None where rows of patterns sum to 1."""
        sinks = getattr(self.blocks.attention, "sinks", None)  # a user's own attention may know of none
        return None if sinks is None else sinks[...] if self.sharing is None else sinks[...][np.asarray(self.sharing)]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be read and edited in this stack."""
        return self.blocks.sites

    @property
    def is_cross(self) -> bool:
        """Whether the keys are another sequence than the queries."""
        return self.queries != self.keys

    @property
    def members(self) -> "tuple[Stack, ...]":
        """This stack and, if it has one, its cross-attention's stack."""
        return (self,) if self.cross is None else (self, self.cross)

    def site_shape(self, site: str, examples: int, positions: int, keys: int | None = None) -> tuple[int, ...]:
        """Return the shape of a site in one layer; arguments are counts, and `keys` is `positions` when left out."""
        sizes = {"B": examples, "T": positions, "S": positions if keys is None else keys}
        sizes |= {"N": self.heads, "K": self.kv_heads, "H": self.head_size, "D": self.width}
        return tuple(sizes[axis] for axis in SITES[site])

    def heads_at(self, site: str) -> int:
        """Return the number of heads at a site: K at `k` and `v`, 1 in the residual stream, else N."""
        if not has_heads(site):
            return 1
        return self.kv_heads if is_of_keys(site) else self.heads

    def positions_at(self, site: str, batch: Batch) -> Positions:
        """Return the positions at a site: key positions at `k` and `v`, else query positions."""
        return (self.keys if is_of_keys(site) else self.queries).of(batch)

    @property
    def weights(self) -> HeadWeights:
        """Weights of every head."""
        attention = self.blocks.attention
        W_Q, W_K, W_V = [jnp.moveaxis(getattr(attention, name)[...], 2, 1) for name in ("W_Q", "W_K", "W_V")]
        biases = [getattr(attention, name) for name in ("b_Q", "b_K", "b_V", "b_O")]
        b_Q, b_K, b_V, b_O = [None if bias is None else bias[...] for bias in biases]
        if attention.key_heads is not None:
            of_key_heads, rows_L1 = (W_K, W_V, b_K, b_V), jnp.arange(self.layers)[:, None]
            W_K, W_V, b_K, b_V = [None if x is None else x[rows_L1, attention.key_heads[...]] for x in of_key_heads]
        W_O = attention.W_O[...]
        if attention.gain is not None:
            gain_LD = attention.gain[...].astype(W_O.dtype)
            W_O, b_O = W_O * gain_LD[:, None, None], None if b_O is None else b_O * gain_LD
        views: Any = (W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O)
        if self.sharing is not None:
            views = [None if view is None else view[np.asarray(self.sharing)] for view in views]
        return HeadWeights(*views)

    def block(self, layer: int | Array) -> Block:
        """Return one layer's block; `layer` may be traced."""
        if self.sharing is not None:
            layer = jnp.asarray(self.sharing)[layer]
        return used(self.gather, jax.tree.map(lambda weight: weight[layer], self.blocks))

    def layer(self, layer: int | Array) -> Layer:
        """Return one layer's block with that of its cross-attention; `layer` may be traced."""
        return Layer(self.block(layer), None if self.cross is None else self.cross.block(layer))

    @property
    def scanned(self) -> Layer | None:
        """All layers' weights, to scan over, each as `scanned_layer` takes it; None where layers share weights."""
        if self.sharing is not None:
            return None
        return Layer(self.blocks, None if self.cross is None else self.cross.blocks)

    def scanned_layer(self, number: Array, scanned: Layer | None) -> Layer:
        """Return the layer of one step of a scan over `scanned`."""
        if scanned is None:
            return self.layer(number)
        cross = None if self.cross is None else used(self.cross.gather, scanned.cross)
        return Layer(used(self.gather, scanned.own), cross)

    def run(
        self,
        x_BTD: Array,
        context: AttentionInputs,
        edits: Sequence[SiteEdit] = (),
        read: Mapping[str, Reader] | None = None,
        *,
        wrap: Callable[[Callable], Callable] = lambda step: step,
    ) -> tuple[Array, dict[str, Any]]:
        """Run all layers in order, with their cross-attention.

        Args:
            context: what attention reads beside the stream.
            edits: edits of this stack's and its cross-attention's sites; others are ignored.
            read: readers, by stack's name.
            wrap: wraps the function that is scanned, such as `jax.checkpoint`.

        Returns:
            The residual stream after the last layer, and by stack's name what its reader returned, with a leading
            layer axis.
        """
        readers = {stack.name: (read or {})[stack.name] for stack in self.members if stack.name in (read or {})}

        contexts = self.contexts(context)

        def step(x: Array, numbered: tuple[Array, Layer | None]) -> tuple[Array, dict[str, Any]]:
            number, scanned = numbered
            layer = self.scanned_layer(number, scanned)
            edit_of = {
                name: editor(edits, name, number, _by_rows(readers.get(name), number), own)
                for name, own in contexts.items()
            }
            x, seen = self.run_layer(layer, x, context, edit_of)
            return x, {name: _read(reader, seen[name], number) for name, reader in readers.items()}

        return jax.lax.scan(wrap(step), x_BTD, (jnp.arange(self.layers), self.scanned))

    def contexts(self, context: AttentionInputs) -> dict[str, AttentionInputs | None]:
        """Return what the attention of each member reads beside the stream, by its name."""
        cross = {} if self.cross is None else {self.cross.name: context.cross}
        return {self.name: context, **cross}

    def run_layer(
        self,
        layer: Layer,
        x_BTD: Array,
        context: AttentionInputs,
        edit_of: Mapping[str, Edit] | None = None,
        *,
        before: tuple[Array, Array] | None = None,
        keys_of: Mapping[str, KeysValues] | None = None,
        rows_BR: Array | None = None,
        cross_only: bool = False,
    ) -> tuple[Array, dict[str, LazySites]]:
        """Run one layer and its cross-attention.

        Args:
            edit_of: the edit of each stack, by its name.
            keys_of: what returns each stack's keys and values before their edits, by its name; see `run_block`.
            before, rows_BR: as in `run_block`.
            cross_only: begin after the layer's self-attention; `x` is then the stream that cross-attention reads.

        Returns:
            The stream after the layer, and by stack's name every site as it was used.
        """
        edit_of, keys_of, seen = edit_of or {}, keys_of or {}, dict[str, LazySites]()
        if not cross_only:
            edit, keys_values = edit_of.get(self.name, unchanged), keys_of.get(self.name, computed_keys)
            x_BTD, seen[self.name] = run_block(
                layer.own, x_BTD, context, edit, before=before, keys_values=keys_values, rows_BR=rows_BR
            )
        if self.cross is not None:
            assert layer.cross is not None
            assert context.cross is not None
            name, cross_context = self.cross.name, context.cross
            if rows_BR is not None and not cross_only:  # the self-attention has returned only these rows
                cross_context, rows_BR = cross_context.rows(rows_BR), None
            edit, keys_values = edit_of.get(name, unchanged), keys_of.get(name, computed_keys)
            x_BTD, seen[name] = run_block(
                layer.cross, x_BTD, cross_context, edit, keys_values=keys_values, rows_BR=rows_BR
            )
        return x_BTD, seen


def computed_keys(block: Block, x_BTD: Array, context: AttentionInputs) -> tuple[Array, Array]:
    """Return the keys and values `[B,S,K,H]` that a block computes from its stream, or from the memory."""
    return block.keys_values(x_BTD if context.memory is None else context.memory, context.own_keys)


def run_block(
    block: Block,
    x_BTD: Array,
    context: AttentionInputs,
    edit: Edit = unchanged,
    *,
    before: tuple[Array, Array] | None = None,
    keys_values: KeysValues = computed_keys,
    rows_BR: Array | None = None,
) -> tuple[Array, LazySites]:
    """Run one block: return the residual stream after it, and every site as it was used.

    Args:
        before: keys and values `[B,P,K,H]` of the positions before those in `x`, where `x` is the end of a sequence.
            `context` must then be that of `AttentionInputs.after`; the edit gets all keys and values.
        keys_values: returns the keys and values before their edits, of other positions than those of `x` too (a cache).
        rows_BR: positions of `x` to return, `[B,R,D]`. Keys and values still come from all positions; the edit gets
            the queries' sites at these positions only.
    """
    plain = edit is unchanged and keys_values is computed_keys and before is None and rows_BR is None
    if plain and full_tiles.fits(block.attention, context, x_BTD):
        return full_tiles.run(block, x_BTD, context), LazySites({})
    x_BTD = edit("resid_pre", spread(x_BTD, 1))
    k, v = keys_values(block, x_BTD, context)
    k, v = gathered(k, 1), gathered(v, 1)
    if before is not None:
        k, v = (jnp.concatenate([earlier, own], axis=1) for earlier, own in zip(before, (k, v), strict=True))
    x, context = (x_BTD, context) if rows_BR is None else (take_rows(x_BTD, rows_BR), context.rows(rows_BR))
    q = block.queries(x, context.queries)
    z, attended = block.attention.attend(q, k, v, context, edit)
    post, written = block.write(x, z, edit)
    sites = attended if isinstance(attended, LazySites) else LazySites(attended)
    # Blocks have been read within attention; a whole pattern is read here, that of a user's own attention too.
    unread = {name: reader for name, reader in getattr(edit, "readers", {}).items() if name not in sites}
    return post, sites.beside({"resid_pre": x_BTD, **written, **read_whole(unread, sites)})


def _by_rows(reader: Reader | None, layer: Array) -> dict[str, RowReader]:
    """Return what reads the pattern within attention, by its name among the sites."""
    return {_READ: InLayer(reader, layer)} if isinstance(reader, RowReader) else {}


def _read(reader: Reader, seen: LazySites, layer: Array) -> Any:
    """Return what a reader keeps of one layer."""
    if isinstance(reader, RowReader):
        return seen[_READ]
    return reader(seen.beside({"layer": layer}))


def take_rows(x_BTD: Array, rows_BR: Array) -> Array:
    """Return each example's rows (positions) `rows_BR` of `x`, `[B,R,…]`."""
    return jax.vmap(lambda x, rows: x[rows])(x_BTD, rows_BR)
