"""Attention as a TPU's tiles want it, where nothing reads or edits its scores and patterns.

A TPU keeps the last axis of an array in tiles of 128 lanes. Heads of 64 would leave half of each tile empty, from the
projection to the output. So the heads of a tile go through both products together: each reads the tile with the other
heads' lanes set to 0, which leaves the products what they are. No axis is moved between the projections and here.

Dimension key: B batch, T query positions, S key positions, N query heads, K key/value heads, H head dimension, k tiles
of keys, g tiles of queries that read one of them, p heads of a tile, l lanes of a tile (H times p).
"""

import jax
import jax.numpy as jnp
from jax import Array

from ..affine import LANES
from .row_edits import RowEdit
from .scoring import Scoring


def can_tile(scoring: Scoring) -> bool:
    """Return whether `attend_by_tile` computes what this scoring does: no biases, sinks, edits or readers."""
    edit = scoring.edit
    plain = isinstance(edit, RowEdit) and not edit.of_queries and not edit.readers
    one_scale = not isinstance(scoring.scale, Array) or scoring.scale.ndim == 0
    return plain and one_scale and scoring.bias is None and scoring.sinks is None


def attend_by_tile(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring) -> Array:
    """Return z `[B,T,N,H]` before its edit, of a scoring that `can_tile`.

    A value that is not finite reaches all queries of its example and head, also those that don't see it: in bfloat16
    and float32 that takes a network that is broken, and to look for it would take as long as a product.
    """
    B, T, N, H = q_BTNH.shape
    dtype, p = q_BTNH.dtype, heads_of_tile(N, k_BSKH.shape[2], H)
    keys_BSkl, values_BSkl = (x.reshape(*x.shape[:2], -1, p * H) for x in (k_BSKH, v_BSKH))
    own_pl = (jnp.arange(p * H)[None] // H == jnp.arange(p)[:, None]).astype(dtype)
    own_111pl = own_pl.reshape(1, 1, 1, 1, p, p * H)
    q_BTkgl = q_BTNH.reshape(B, T, keys_BSkl.shape[2], -1, p * H)
    scores_BkgpTS = jnp.einsum("btkgpl,bskl->bkgpts", q_BTkgl[..., None, :] * own_111pl, keys_BSkl)
    scores_BkgpTS = scores_BkgpTS * jnp.asarray(scoring.scale, dtype)
    if scoring.cap is not None:
        scores_BkgpTS = jnp.tanh(scores_BkgpTS / scoring.cap) * scoring.cap
    visible_BTS = scoring.mask.array()
    scores_BkgpTS = jnp.where(visible_BTS[:, None, None, None], scores_BkgpTS, jnp.finfo(dtype).min)
    wide = scores_BkgpTS.astype(jnp.promote_types(dtype, jnp.float32))
    pattern_BkgpTS = jax.nn.softmax(wide, axis=-1).astype(dtype)
    z_BTkgpl = jnp.einsum("bkgpts,bskl->btkgpl", pattern_BkgpTS, values_BSkl)
    return (z_BTkgpl * own_111pl).sum(axis=4).reshape(B, T, N, H)


def heads_of_tile(N: int, K: int, H: int) -> int:
    """Return how many heads fill a tile; 1 for heads as wide as one, and where query heads share keys."""
    p = max(1, LANES // H)
    # Shared keys would be repeated in each tile: by XLA's estimate that takes longer than half-empty tiles do.
    return p if LANES % H == 0 and N == K and K % p == 0 else 1
