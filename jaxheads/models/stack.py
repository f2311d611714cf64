"""A stack of layers, run in one scan; and one layer by itself, whole, or for its last positions or some rows only.

Weights carry a leading layer axis and layers are scanned, so one compilation serves every layer. What is read is a
function of one layer's sites, evaluated in that layer: memory grows with one layer, not with their number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .attention import Edit, unchanged
from .batch import Context
from .blocks import Block
from .sites import SiteEdit, editor

Reader = Callable[[Mapping[str, Array]], Any]
"""From one layer's sites to what is kept of them, any pytree of arrays."""


def read_nothing(seen: Mapping[str, Array]) -> None:
    """The reader that keeps nothing."""
    del seen


@dataclass(frozen=True)
class HeadWeights:
    """Every head's weights in the form that all families share, layers first; biases are None where there are none.

    W_Q `[L,N,D,H]`, W_K and W_V `[L,K,D,H]`, W_O `[L,N,H,D]`; b_Q `[L,N,H]`, b_K and b_V `[L,K,H]`, b_O `[L,D]`.
    """

    W_Q: Array
    W_K: Array
    W_V: Array
    W_O: Array
    b_Q: Array | None
    b_K: Array | None
    b_V: Array | None
    b_O: Array | None


class Stack(nnx.Module):
    """L blocks of one kind under one name.

    Args:
        name: "decoder", "encoder", …
        layers: how many.
        make: builds one block from its random streams.
    """

    def __init__(self, name: str, layers: int, make: Callable[[nnx.Rngs], Any], *, rngs: nnx.Rngs, causal: bool):
        if layers < 1:
            raise ValueError(f"a stack needs at least one layer, got {layers}")
        self.name = name
        self.layers = layers
        self.causal = causal
        self.blocks = nnx.split_rngs(splits=layers)(nnx.vmap(make))(rngs)

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
    def sites(self) -> tuple[str, ...]:
        """The sites that can be read and edited here."""
        return self.blocks.sites

    def site_shape(self, site: str, examples: int, positions: int) -> tuple[int, ...]:
        """The shape of a site in one layer, for inputs `[examples, positions]`."""
        B, T, N, H = examples, positions, self.heads, self.head_size
        if site in ("q", "z"):
            return B, T, N, H
        if site in ("k", "v"):
            return B, T, self.kv_heads, H
        if site in ("scores", "pattern"):
            return B, N, T, T
        return B, T, self.blocks.attention.W_O.shape[-1]

    @property
    def weights(self) -> HeadWeights:
        """Views of every head's weights."""
        attention = self.blocks.attention
        W_Q, W_K, W_V = [jnp.moveaxis(getattr(attention, name)[...], 2, 1) for name in ("W_Q", "W_K", "W_V")]
        biases = [getattr(attention, name) for name in ("b_Q", "b_K", "b_V", "b_O")]
        b_Q, b_K, b_V, b_O = [None if bias is None else bias[...] for bias in biases]
        return HeadWeights(W_Q, W_K, W_V, attention.W_O[...], b_Q, b_K, b_V, b_O)

    def block(self, layer: int | Array) -> Block:
        """One layer's block; `layer` may be traced."""
        return jax.tree.map(lambda weight: weight[layer], self.blocks)

    def run(
        self, x_BTD: Array, context: Context, edits: Sequence[SiteEdit] = (), read: Reader = read_nothing
    ) -> tuple[Array, Any]:
        """All layers in order: the residual stream after them, and what `read` kept, with a leading layer axis."""

        def step(x: Array, layer_block: tuple[Array, Block]) -> tuple[Array, Any]:
            layer, block = layer_block
            x, seen = run_block(block, x, context, editor(edits, self.name, layer))
            return x, read(seen)

        return jax.lax.scan(step, x_BTD, (jnp.arange(self.layers), self.blocks))


def run_block(
    block: Block,
    x_BTD: Array,
    context: Context,
    edit: Edit = unchanged,
    *,
    before: tuple[Array, Array] | None = None,
    rows_BR: Array | None = None,
) -> tuple[Array, Mapping[str, Array]]:
    """One layer: the residual stream after it, and every site as it was used.

    Args:
        before: keys and values `[B,P,K,H]` of positions before those in `x`, where `x` is the end of a sequence;
            `context` is then `Context.after` them, and the edit sees all keys and values.
        rows_BR: only these positions of `x` are carried on, `[B,R,D]`: keys and values still come from everywhere.
            The edit sees the sites of queries at these rows.
    """
    x_BTD = edit("resid_pre", x_BTD)
    k, v = block.keys_values(x_BTD, context.keys)
    if before is not None:
        k, v = (jnp.concatenate([old, new], axis=1) for old, new in zip(before, (k, v), strict=True))
    x, seen_by = (x_BTD, context) if rows_BR is None else (take_rows(x_BTD, rows_BR), context.rows(rows_BR))
    q = block.queries(x, seen_by.queries)
    z, attended = block.attention.attend(q, k, v, seen_by.mask, edit)
    post, written = block.write(x, z, edit)
    return post, {"resid_pre": x_BTD, **attended, **written}


def take_rows(x_BTD: Array, rows_BR: Array) -> Array:
    """Each example's own rows: `[B,R,…]`."""
    return jax.vmap(lambda x, rows: x[rows])(x_BTD, rows_BR)
