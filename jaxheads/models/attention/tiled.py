"""Attention as a TPU's tiles want it, where nothing reads or edits its scores and patterns.

A TPU keeps the last axis of an array in tiles of 128 lanes. Heads of 64 would leave half of each tile empty, from the
projection to the output. So the heads of a tile go through both products together, and their scores lie side by side:
each has a copy of the tile's keys (and values) in which the other heads' lanes are 0. Query heads that share keys are
more rows of one product. Sums over keys are products too, and the weighted values are divided by them at the end: so no
pattern is made, and no axis is moved between the projections and here.

Dimension key: B batch, T query positions, S key positions, N query heads, K key/value heads, H head dimension, p heads
of a tile, l its lanes (H times p), g tiles of queries that read the same keys, n tiles of keys, R rows (g times T).
"""

import jax
import jax.numpy as jnp
import numpy as np
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


def attend_by_tile(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring, *, in_order: bool = False) -> Array:
    """Return z `[B,T,N,H]` before its edit, of a scoring that `can_tile`.

    A value that is not finite reaches all queries of its example and tile, also those that don't see it: in bfloat16
    and float32 that takes a network that is broken, and to look for it would take as long as a product.

    Args:
        in_order: whether heads come in the order of `full_tiles`.
    """
    B, T, N, H = q_BTNH.shape
    dtype, S = q_BTNH.dtype, k_BSKH.shape[1]
    p = LANES // H if in_order else heads_of_tile(N, k_BSKH.shape[2], H)
    own_pl = np.repeat(np.eye(p, dtype=bool), H, axis=1)
    tiles = (x.reshape(B, S, -1, p * H) if in_order else _of_tiles(x, N, p) for x in (k_BSKH, v_BSKH))
    keys_BSnpl, values_BSnpl = (_apart(x_BSnl, own_pl) for x_BSnl in tiles)
    n = keys_BSnpl.shape[2]
    q_BTngl = q_BTNH.reshape(B, T, n, -1, p * H)
    g = q_BTngl.shape[3]
    q_BRnl = jnp.moveaxis(q_BTngl, 3, 1).reshape(B, g * T, n, p * H)
    scores_BnRpS = jnp.einsum("brnl,bsnpl->bnrps", q_BRnl, keys_BSnpl) * jnp.asarray(scoring.scale, dtype)
    if scoring.cap is not None:
        scores_BnRpS = jnp.tanh(scores_BnRpS / scoring.cap) * scoring.cap
    visible_BRS = jnp.tile(jnp.broadcast_to(scoring.mask.array(), (B, T, S)), (1, g, 1))
    scores_BnRpS = jnp.where(visible_BRS[:, None, :, None], scores_BnRpS, jnp.finfo(dtype).min)
    wide = jnp.promote_types(dtype, jnp.float32)
    scores_BnRpS = scores_BnRpS.astype(wide)
    greatest_BnRp1 = jax.lax.stop_gradient(scores_BnRpS.max(axis=-1, keepdims=True))
    weights_BnRpS = jnp.exp(scores_BnRpS - greatest_BnRp1).astype(dtype)
    # The sum of a head's weights comes in all lanes of the head, as its values do.
    own_pSl = jnp.broadcast_to(jnp.asarray(own_pl, dtype)[:, None], (p, S, p * H))
    total_BRnl = jnp.einsum("bnrps,psl->brnl", weights_BnRpS, own_pSl, preferred_element_type=wide)
    sum_BRnl = jnp.einsum("bnrps,bsnpl->brnl", weights_BnRpS, values_BSnpl, preferred_element_type=wide)
    z_BRnl = (sum_BRnl / total_BRnl).astype(dtype)
    return jnp.moveaxis(z_BRnl.reshape(B, g, T, n, p * H), 1, 3).reshape(B, T, N, H)


def heads_of_tile(N: int, K: int, H: int) -> int:
    """Return how many query heads a tile holds; 1 for heads as wide as a tile, and for groups that would share one."""
    p = max(1, LANES // H)
    fits = K % p == 0 if N == K else (N // K) % p == 0
    return p if LANES % H == 0 and fits else 1


def _of_tiles(x_BSKH: Array, N: int, p: int) -> Array:
    """Return keys or values as the tiles of query heads read them, `[B,S,n,l]`: shared ones once for each head."""
    B, S, K, H = x_BSKH.shape
    if N == K or p == 1:
        return x_BSKH.reshape(B, S, -1, p * H)
    # A product with zeros and ones moves lanes in less time than a copy takes.
    lanes = LANES if K * H % LANES == 0 else K * H
    copies_FKpH = np.einsum("kn,hi,p->khnpi", np.eye(K), np.eye(H), np.ones(p))
    copies_tlnm = jnp.asarray(copies_FKpH.reshape(-1, lanes, K, p * H), x_BSKH.dtype)
    x_BStl = x_BSKH.reshape(B, S, -1, lanes)
    return jnp.einsum("bstl,tlnm->bsnm", x_BStl, copies_tlnm, precision=jax.lax.Precision.HIGHEST)


def _apart(x_BSnl: Array, own_pl: np.ndarray) -> Array:
    """Return a copy of the tiles for each of their heads, with 0 in the lanes of the others, `[B,S,n,p,l]`."""
    return jnp.where(own_pl[None, None, None], x_BSnl[:, :, :, None], jnp.zeros((), x_BSnl.dtype))
