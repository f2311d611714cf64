"""Layers whose heads are put in another order, beside heads of zeros, so that a TPU's tiles are full.

A TPU keeps the last axis of arrays in tiles of 128 lanes, which two heads of 64 fill. Where an odd number of query
heads share keys (SmolLM2 has groups of three), `tiled` would give each head a tile to itself, half empty, from the
projection to the output. Here a tile of queries holds one head of each group whose keys make a tile. Queries and keys
then meet tile by tile as the projections write them, and no key is copied. Groups are filled up to whole tiles with
zeros.

This is for layers that nothing edits or reads: no one else knows the order of heads.

Dimension key: B batch, T query positions, S key positions, D model dimension, N query heads, K key/value heads, H head
dimension, g = N // K query heads of a group, p heads of a tile.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...programs import platform
from ..affine import LANES, affine
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.query_rows import block_rows
from ..spreading import stripes
from .row_edits import unchanged
from .tiled import attend_by_tile, can_tile


def pays(attention: Any) -> bool:
    """Return whether tiles of a layer's heads would be half empty, on a platform that has tiles."""
    if platform() != "tpu" or not vars(type(attention)).get("in_any_order", False):
        return False
    N, H, K = attention.W_Q.shape[-2], attention.W_Q.shape[-1], attention.W_K.shape[-2]
    by_head = attention.q_norm, attention.k_norm, attention.key_heads, attention.sinks
    if any(own is not None for own in by_head) or attention.affine is not affine:
        return False
    p = LANES // H
    return p > 1 and LANES % H == 0 and K < N and (N // K) % p > 0


def fits(attention: Any, context: AttentionInputs, x_BTD: Array) -> bool:
    """Return whether a layer that nothing edits runs in this order."""
    B, T, _ = x_BTD.shape
    if not pays(attention) or context.memory is not None or x_BTD.dtype == jnp.float16 or stripes(T) > 1:
        return False
    return block_rows(B, attention.W_Q.shape[-2], T, T) >= T and can_tile(attention.scoring(context, unchanged))


def ordered(attention: Any) -> Any:
    """Return attention with its heads in the order of tiles; it computes the same sum over heads."""
    N, H, K = attention.W_Q.shape[-2], attention.W_Q.shape[-1], attention.W_K.shape[-2]
    p, g = LANES // H, N // K
    tiled = jax.tree.map(lambda leaf: leaf, attention)

    def in_order(x: Array, axis: int, of_group: int) -> Array:
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        groups = x.reshape(*before, K, of_group, *after)
        filled = jnp.pad(groups, [(0, -K % p if number == axis else 0) for number in range(groups.ndim)])
        tiles = jnp.moveaxis(filled.reshape(*before, -1, p, of_group, *after), axis + 1, axis + 2)
        return tiles.reshape(*before, -1, *after)

    axes = {"W_Q": (1, g), "W_K": (1, 1), "W_V": (1, 1), "W_O": (0, g), "b_Q": (0, g), "b_K": (0, 1), "b_V": (0, 1)}
    for name, (axis, of_group) in axes.items():
        if (own := getattr(tiled, name)) is not None:
            own.set_value(in_order(own[...], axis, of_group))
    return tiled


def run(block: Any, x_BTD: Array, context: AttentionInputs) -> Array:
    """Return the stream `[B,T,D]` after a block that `fits`."""
    block = jax.tree.map(lambda leaf: leaf, block)
    attention = block.attention = ordered(block.attention)
    k_BSKH, v_BSKH = block.keys_values(x_BTD, context.own_keys)
    q_BTNH, scoring = block.queries(x_BTD, context.queries), attention.scoring(context, unchanged)
    return block.write(x_BTD, attend_by_tile(q_BTNH, k_BSKH, v_BSKH, scoring, in_order=True), unchanged)[0]
