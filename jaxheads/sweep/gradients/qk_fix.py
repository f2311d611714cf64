"""What patching queries or keys does to an attention pattern, exactly, and what the objective makes of it, linearly.

The QK fix of AtP* (Kramár et al. 2024, arXiv 2403.00745, section 3.1). A saturated softmax has no slope, so that a
gradient by queries or keys misses what replacing them does. The pattern is therefore made anew, and only what comes
after it is taken to be linear. The maths is for one head of one example: `[T,S]`.
"""

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def rows_moved(slope_LBNTS: Array, pattern_LBNTS: Array, patched_LBNTS: Array) -> Array:
    """The effect of each row of the pattern becoming that of patched scores, `[L,B,N,T]`.

    The paper's equation for a query: it moves one row, its own. Summed over rows, it is that of patching all keys.
    """
    moved_LBNTS = patched_LBNTS.astype(jnp.float32) - pattern_LBNTS.astype(jnp.float32)
    return (moved_LBNTS * slope_LBNTS).sum(axis=-1)


@jax.jit
def keys_moved(slope_LBNTS: Array, scores_LBNTS: Array, patched_LBNTS: Array) -> Array:
    """The effect of patching one key at a time, summed over the queries that look at it, `[L,B,N,S]`.

    A key's own score is the only one that its patch changes, in each row: `patched` may therefore hold the scores of
    all keys patched at once.
    """
    scores_LBNTS, patched_LBNTS = scores_LBNTS.astype(jnp.float32), patched_LBNTS.astype(jnp.float32)
    return jax.vmap(jax.vmap(jax.vmap(_keys_moved)))(slope_LBNTS, scores_LBNTS, patched_LBNTS)


def _keys_moved(slope_TS: Array, scores_TS: Array, patched_TS: Array) -> Array:
    """Key s has the weight `sigmoid(score - rest)` of a row, the others what is left, in unchanged proportions.

    With `rest` the logarithm of the others' summed exponentials, and `other` the others' mean slope, the effect of a
    row is `(sigmoid(patched - rest) - sigmoid(score - rest)) * (slope - other)`. Of the largest key in a row, `rest`
    and `other` are summed without it: what 1 minus its weight would leave of a saturated softmax is rounding.
    """
    largest_TS = jnp.arange(scores_TS.shape[1])[None] == scores_TS.argmax(axis=1, keepdims=True)
    weight_TS = jax.nn.softmax(scores_TS, axis=1)
    small_TS = jnp.where(largest_TS, 0.0, weight_TS)
    mean_T1 = (weight_TS * slope_TS).sum(axis=1, keepdims=True)
    others_TS = jnp.where(largest_TS, jnp.finfo(jnp.float32).min, scores_TS)
    without_T1 = (jax.nn.softmax(others_TS, axis=1) * slope_TS).sum(axis=1, keepdims=True)
    other_TS = jnp.where(largest_TS, without_T1, (mean_T1 - small_TS * slope_TS) / (1 - small_TS))
    all_T1, rest_T1 = (jax.nn.logsumexp(part, axis=1, keepdims=True) for part in (scores_TS, others_TS))
    rest_TS = jnp.where(largest_TS, rest_T1, all_T1 + jnp.log1p(-small_TS))
    change_TS = jax.nn.sigmoid(patched_TS - rest_TS) - jax.nn.sigmoid(scores_TS - rest_TS)
    return (change_TS * (slope_TS - other_TS)).sum(axis=0)
