"""Attention in one function, through which every model computes it and every edit changes it.

Dimension key, used in names throughout jaxheads: B batch, T query positions, S key positions, N query heads,
K key/value heads, G = N // K query heads a key/value head, H head dimension, D model dimension, L layers, V vocabulary.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

Edit = Callable[[str, Array], Array]
"""`edit(site, value)` returns the value that the forward pass goes on with, of unchanged shape and dtype."""

Bias = Array | Callable[[Array, Array], Array]
"""Bias of the scores, `[B|1,N,T|1,S]`, or a function of the queries and keys that returns it."""


def unchanged(site: str, value: Array) -> Array:
    """Return the value as it is: the edit that changes nothing."""
    del site
    return value


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    mask_BTS: Array,
    *,
    scale: float | Array,
    bias: Bias | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
    edit: Edit = unchanged,
) -> tuple[Array, Mapping[str, Array]]:
    """Compute softmax attention of N query heads over K shared key/value heads; `edit` may change every step.

    Query head n reads key/value head n // (N // K). Scores are scaled, capped (`cap * tanh(scores / cap)`), biased and
    masked. A bias that is a function reads the edited queries and keys. Masked entries are `finfo.min`, never -inf.
    They are masked again after an edit, so that no edit can attend to a masked key. The softmax is taken in float32 at
    least. The pattern of a query without a visible key (padding) is uniform, not NaN.

    With `sinks` `[N]` each head has a learnt score beside those of the keys, without a value (GPT-OSS; Miller 2023 has
    it at 0). A row of the pattern then sums to less than 1, and what is missing went to the sink. It reaches masks and
    edits by itself: where they hide all keys, the whole row is 0.

    Returns:
        z `[B,T,N,H]`, and the value at each of `sites.ATTENTION_SITES` as it was used, after its edits.
    """
    q_BTNH, k_BSKH, v_BSKH = edit("q", q_BTNH), edit("k", k_BSKH), edit("v", v_BSKH)
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    lowest = jnp.finfo(q_BTNH.dtype).min
    visible_B1TS = mask_BTS[:, None]

    # Query heads that share keys are put side by side (R = (N // K) * T rows): keys need no copy for each of them.
    q_BKRH = jnp.moveaxis(q_BTNH.reshape(B, T, K, N // K, H), 1, 3).reshape(B, K, -1, H)
    scores_BNTS = jnp.einsum("bkrh,bskh->bkrs", q_BKRH, k_BSKH).reshape(B, N, T, S)
    scores_BNTS = scores_BNTS * jnp.asarray(scale, q_BTNH.dtype)
    if cap is not None:
        scores_BNTS = jnp.tanh(scores_BNTS / cap) * cap
    if bias is not None:
        added = bias(q_BTNH, k_BSKH) if callable(bias) else bias
        scores_BNTS = scores_BNTS + added.astype(q_BTNH.dtype)
    scores_BNTS = jnp.where(visible_B1TS, scores_BNTS, lowest)
    scores_BNTS = jnp.where(visible_B1TS, edit("scores", scores_BNTS), lowest)

    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    pattern_BNTS = _softmax(scores_BNTS.astype(wide), sinks).astype(q_BTNH.dtype)
    pattern_BNTS = edit("pattern", pattern_BNTS)
    z_BKRH = _weighted_sum(pattern_BNTS.reshape(B, K, -1, S), v_BSKH)
    z_BTNH = jnp.moveaxis(z_BKRH.reshape(B, N, T, H), 1, 2)
    z_BTNH = edit("z", z_BTNH)
    seen = {"q": q_BTNH, "k": k_BSKH, "v": v_BSKH, "scores": scores_BNTS, "pattern": pattern_BNTS, "z": z_BTNH}
    return z_BTNH, seen


def _softmax(scores_BNTS: Array, sinks_N: Array | None) -> Array:
    """Return the softmax over keys, and over a head's sink where there is one."""
    if sinks_N is None:
        return jax.nn.softmax(scores_BNTS, axis=-1)
    sinks_N = sinks_N.astype(scores_BNTS.dtype)
    sinks_BNT1 = jnp.broadcast_to(sinks_N[None, :, None, None], (*scores_BNTS.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([scores_BNTS, sinks_BNT1], axis=-1), axis=-1)[..., :-1]


def _weighted_sum(pattern_BKRS: Array, v_BSKH: Array) -> Array:
    """Return the sum of values weighted by a pattern, `[B,K,R,H]`: NaN where it reads a value that is not finite.

    A key of weight 0 is not read. 0 times infinity is NaN, so a value that overflows would reach queries that don't see
    it: those before it, those whose edge is knocked out, and from padding all of them.
    """
    broken_BSK = ~jnp.isfinite(v_BSKH).all(axis=-1)
    finite_BSKH = jnp.where(broken_BSK[..., None], jnp.zeros_like(v_BSKH), v_BSKH)
    reads_broken_BKR = jnp.einsum("bkrs,bsk->bkr", pattern_BKRS, broken_BSK.astype(v_BSKH.dtype)) != 0
    z_BKRH = jnp.einsum("bkrs,bskh->bkrh", pattern_BKRS, finite_BSKH)
    return jnp.where(reads_broken_BKR[..., None], jnp.nan, z_BKRH)
