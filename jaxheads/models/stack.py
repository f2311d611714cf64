"""A stack of layers, run in one scan; and one layer by itself, whole, or for its last positions or some rows only.

Weights carry a leading layer axis and layers are scanned, so one compilation serves every layer. What is read is a
function of one layer's sites, evaluated in that layer: memory grows with one layer, not with their number.

A decoder with cross-attention is two stacks on one stream, layer by layer in turn: the self-attention's, and as its
`cross` the cross-attention's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .attention import Edit, unchanged
from .blocks import Block
from .inputs.axes import TOKENS, Axis, Positions
from .inputs.batch import AttentionInputs, Batch
from .sites import SITES, SiteEdit, editor, has_heads, is_of_keys

Sites = Mapping[str, Array]
Reader = Callable[[Sites], Any]
"""From one layer's sites, and its number as "layer", to what is kept of them, any pytree of arrays."""


@dataclass(frozen=True)
class HeadWeights:
    """Every head's weights in the form that all families share, layers first; biases are None where there are none.

    W_Q `[L,N,D,H]`, W_K and W_V `[L,K,D,H]`, W_O `[L,N,H,D]`; b_Q `[L,N,H]`, b_K and b_V `[L,K,H]`, b_O `[L,D]`.
    What is done to all heads' sum on its way into the stream (LayerScale) is part of W_O and b_O.
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
    """One layer's block, and that of the cross-attention that follows it, if any."""

    own: Block
    cross: Block | None


class Stack(nnx.Module):
    """L blocks of one kind under one name.

    Args:
        name: "decoder", "encoder", "cross", …
        layers: how many.
        make: builds one block from its random streams, and from its part of `settings` if there are any.
        causal: whether positions look back only.
        queries, keys: what the positions are that ask, and those that are looked at (the same when left out).
        settings: arrays with a leading axis of layers, one layer's part of which `make` is given.
        sharing: for each layer the number of the block whose weights it uses, where layers share them (ALBERT).
        cross: the stack of cross-attention that follows layer by layer.

    Raises:
        ValueError: for no layer, or a `cross` of another number of layers.
    """

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
        settings: Mapping[str, np.ndarray] | None = None,
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
        given = () if settings is None else ({key: jnp.asarray(value) for key, value in settings.items()},)
        self.blocks = nnx.split_rngs(splits=blocks)(nnx.vmap(make))(rngs, *given)
        self.cross = cross

    @property
    def heads(self) -> int:
        """N, the query heads of a layer."""
        return self.blocks.attention.W_Q.shape[-2]

    @property
    def kv_heads(self) -> int:
        """K, the key/value heads of a layer."""
        return self.blocks.attention.W_K.shape[-2]

    @property
    def head_size(self) -> int:
        """H, the dimension of a head."""
        return self.blocks.attention.W_Q.shape[-1]

    @property
    def width(self) -> int:
        """D, the dimension of the stream."""
        return self.blocks.attention.W_O.shape[-1]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that can be read and edited here."""
        return self.blocks.sites

    @property
    def is_cross(self) -> bool:
        """Whether queries look at another sequence than their own."""
        return self.queries != self.keys

    @property
    def members(self) -> "tuple[Stack, ...]":
        """This stack, and its cross-attention's if it has one."""
        return (self,) if self.cross is None else (self, self.cross)

    def site_shape(self, site: str, examples: int, positions: int, keys: int | None = None) -> tuple[int, ...]:
        """The shape of a site in one layer, for so many examples, query positions and (if others) key positions."""
        sizes = {"B": examples, "T": positions, "S": positions if keys is None else keys}
        sizes |= {"N": self.heads, "K": self.kv_heads, "H": self.head_size, "D": self.width}
        return tuple(sizes[axis] for axis in SITES[site])

    def heads_at(self, site: str) -> int:
        """How many heads a site has: K at `k` and `v`, 1 in the residual stream, N elsewhere."""
        if not has_heads(site):
            return 1
        return self.kv_heads if is_of_keys(site) else self.heads

    def positions_at(self, site: str, batch: Batch) -> Positions:
        """The positions that a site has: those of keys at `k` and `v`, else those of queries."""
        return (self.keys if is_of_keys(site) else self.queries).of(batch)

    @property
    def weights(self) -> HeadWeights:
        """Views of every head's weights."""
        attention = self.blocks.attention
        W_Q, W_K, W_V = [jnp.moveaxis(getattr(attention, name)[...], 2, 1) for name in ("W_Q", "W_K", "W_V")]
        biases = [getattr(attention, name) for name in ("b_Q", "b_K", "b_V", "b_O")]
        b_Q, b_K, b_V, b_O = [None if bias is None else bias[...] for bias in biases]
        W_O = attention.W_O[...]
        if attention.gain is not None:
            gain_LD = attention.gain[...]
            W_O, b_O = W_O * gain_LD[:, None, None], None if b_O is None else b_O * gain_LD
        views: Any = (W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O)
        if self.sharing is not None:
            views = [None if view is None else view[np.asarray(self.sharing)] for view in views]
        return HeadWeights(*views)

    def block(self, layer: int | Array) -> Block:
        """One layer's block; `layer` may be traced."""
        if self.sharing is not None:
            layer = jnp.asarray(self.sharing)[layer]
        return jax.tree.map(lambda weight: weight[layer], self.blocks)

    def layer(self, layer: int | Array) -> Layer:
        """One layer's block with that of the cross-attention; `layer` may be traced."""
        return Layer(self.block(layer), None if self.cross is None else self.cross.block(layer))

    def run(
        self,
        x_BTD: Array,
        context: AttentionInputs,
        edits: Sequence[SiteEdit] = (),
        read: Mapping[str, Reader] | None = None,
        *,
        wrap: Callable[[Callable], Callable] = lambda step: step,
    ) -> tuple[Array, dict[str, Any]]:
        """All layers in order, with their cross-attention: the residual stream after them, and by stack's name what
        its reader kept, with a leading layer axis.

        Args:
            wrap: wraps the function that is scanned, such as `jax.checkpoint`.
        """
        readers = {stack.name: (read or {})[stack.name] for stack in self.members if stack.name in (read or {})}

        def step(x: Array, at: tuple[Array, Layer]) -> tuple[Array, dict[str, Any]]:
            number, blocks = at
            layer = blocks if self.sharing is None else self.layer(number)
            edit_of = {stack.name: editor(edits, stack.name, number) for stack in self.members}
            x, seen = self.run_layer(layer, x, context, edit_of)
            return x, {name: reader({**seen[name], "layer": number}) for name, reader in readers.items()}

        stacked = Layer(self.blocks, None if self.cross is None else self.cross.blocks)
        return jax.lax.scan(wrap(step), x_BTD, (jnp.arange(self.layers), stacked if self.sharing is None else None))

    def run_layer(
        self,
        layer: Layer,
        x_BTD: Array,
        context: AttentionInputs,
        edit_of: Mapping[str, Edit] | None = None,
        *,
        before: tuple[Array, Array] | None = None,
        rows_BR: Array | None = None,
        cross_only: bool = False,
    ) -> tuple[Array, dict[str, Sites]]:
        """One layer and its cross-attention: the stream after them, and by stack's name every site as it was used.

        Args:
            before, rows_BR: as in `run_block`.
            cross_only: begin after the layer's own attention: `x` is what the cross-attention reads.
        """
        edit_of, seen = edit_of or {}, {}
        if not cross_only:
            x_BTD, seen[self.name] = run_block(
                layer.own, x_BTD, context, edit_of.get(self.name, unchanged), before=before, rows_BR=rows_BR
            )
        if self.cross is not None:
            assert layer.cross is not None
            assert context.cross is not None
            name, own = self.cross.name, context.cross
            if rows_BR is not None and not cross_only:  # the layer's own attention has left only these rows
                own, rows_BR = own.rows(rows_BR), None
            x_BTD, seen[name] = run_block(layer.cross, x_BTD, own, edit_of.get(name, unchanged), rows_BR=rows_BR)
        return x_BTD, seen


def run_block(
    block: Block,
    x_BTD: Array,
    context: AttentionInputs,
    edit: Edit = unchanged,
    *,
    before: tuple[Array, Array] | None = None,
    rows_BR: Array | None = None,
) -> tuple[Array, Sites]:
    """One block: the residual stream after it, and every site as it was used.

    Args:
        before: keys and values `[B,P,K,H]` of positions before those in `x`, where `x` is the end of a sequence;
            `context` is then `AttentionInputs.after` them, and the edit sees all keys and values.
        rows_BR: only these positions of `x` are carried on, `[B,R,D]`: keys and values still come from everywhere.
            The edit sees the sites of queries at these rows.
    """
    x_BTD = edit("resid_pre", x_BTD)
    k, v = block.keys_values(x_BTD if context.memory is None else context.memory, context.own_keys)
    if before is not None:
        k, v = (jnp.concatenate([old, new], axis=1) for old, new in zip(before, (k, v), strict=True))
    x, seen_by = (x_BTD, context) if rows_BR is None else (take_rows(x_BTD, rows_BR), context.rows(rows_BR))
    q = block.queries(x, seen_by.queries)
    z, attended = block.attention.attend(q, k, v, seen_by, edit)
    post, written = block.write(x, z, edit)
    return post, {"resid_pre": x_BTD, **attended, **written}


def take_rows(x_BTD: Array, rows_BR: Array) -> Array:
    """Each example's own rows: `[B,R,…]`."""
    return jax.vmap(lambda x, rows: x[rows])(x_BTD, rows_BR)
