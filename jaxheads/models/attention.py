"""The seam: the one place where attention is computed, read and changed.

Dimension key, used in names throughout jaxheads: B batch, T query positions, S key positions, N query heads,
K key/value heads, G = N // K query heads a key/value head, H head dimension, D model dimension, L layers, V vocabulary.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

Edit = Callable[[str, Array], Array]
"""`edit(site, value)` gives the value to go on with; what it returns has the shape and dtype of what it got."""


def unchanged(site: str, value: Array) -> Array:
    """The edit that changes nothing."""
    del site
    return value


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    mask_BTS: Array,
    *,
    scale: float | Array,
    bias: Array | None = None,
    cap: float | None = None,
    edit: Edit = unchanged,
) -> tuple[Array, Mapping[str, Array]]:
    """Softmax attention of N query heads over K shared key/value heads, every intermediate value open to `edit`.

    Query head n reads key/value head n // (N // K). Scores are scaled, capped (`cap * tanh(scores / cap)`), biased
    (`[B|1,N,T|1,S]`) and masked, masked entries being `finfo.min` (never -inf), also after an edit: no edit can look at
    a masked key. The softmax is taken in float32 at least. A row without a visible key (padding) is uniform, not NaN.

    Returns:
        z `[B,T,N,H]`, and the values at its sites (`sites.ATTENTION_SITES`) as they were used, after their edits.
    """
    q_BTNH, k_BSKH, v_BSKH = edit("q", q_BTNH), edit("k", k_BSKH), edit("v", v_BSKH)
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    lowest = jnp.finfo(q_BTNH.dtype).min
    visible_B1TS = mask_BTS[:, None]

    # The query heads of one key/value head side by side: one product a key/value head, R = (N // K) * T rows.
    q_BKRH = jnp.moveaxis(q_BTNH.reshape(B, T, K, N // K, H), 1, 3).reshape(B, K, -1, H)
    scores_BNTS = jnp.einsum("bkrh,bskh->bkrs", q_BKRH, k_BSKH).reshape(B, N, T, S)
    scores_BNTS = scores_BNTS * jnp.asarray(scale, q_BTNH.dtype)
    if cap is not None:
        scores_BNTS = jnp.tanh(scores_BNTS / cap) * cap
    if bias is not None:
        scores_BNTS = scores_BNTS + bias.astype(q_BTNH.dtype)
    scores_BNTS = jnp.where(visible_B1TS, scores_BNTS, lowest)
    scores_BNTS = jnp.where(visible_B1TS, edit("scores", scores_BNTS), lowest)

    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    pattern_BNTS = jax.nn.softmax(scores_BNTS.astype(wide), axis=-1).astype(q_BTNH.dtype)
    pattern_BNTS = edit("pattern", pattern_BNTS)
    z_BKRH = jnp.einsum("bkrs,bskh->bkrh", pattern_BNTS.reshape(B, K, -1, S), v_BSKH)
    z_BTNH = jnp.moveaxis(z_BKRH.reshape(B, N, T, H), 1, 2)
    z_BTNH = edit("z", z_BTNH)
    seen = {"q": q_BTNH, "k": k_BSKH, "v": v_BSKH, "scores": scores_BNTS, "pattern": pattern_BNTS, "z": z_BTNH}
    return z_BTNH, seen
