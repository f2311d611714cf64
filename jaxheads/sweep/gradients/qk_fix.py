"""The QK fix of AtP*: attention patterns recomputed exactly, and linear from there on.

Kramár et al. 2024 (arXiv 2403.00745), section 3.1. The maths is for one head of one example.

Dimension key: L layers, B examples, N heads, T query positions, S key positions.
"""

import jax
import jax.numpy as jnp
from jax import Array

from ...programs import compiled

# A saturated softmax has no slope, so a gradient by queries or keys misses what replacing them does: it is near 0 even
# where the new query would turn the whole row to another key. The patched pattern costs no more than its scores, which
# both runs give anyway. So the softmax is computed, and only the path from the pattern to the objective is linearised.


@compiled
def row_effects(slope_LBNTS: Array, pattern_LBNTS: Array, patched_LBNTS: Array) -> Array:
    """Return the effect of replacing each row of the pattern by its patched one, `[L,B,N,T]`.

    For one query this is the paper's equation. Summed over rows it is the effect of patching all keys.
    """
    # A query moves one row of the pattern, its own: no row depends on another's query.
    change_LBNTS = patched_LBNTS.astype(jnp.float32) - pattern_LBNTS.astype(jnp.float32)
    return (change_LBNTS * slope_LBNTS).sum(axis=-1)


@compiled
def key_effects(slope_LBNTS: Array, scores_LBNTS: Array, patched_LBNTS: Array, sinks_LN: Array | None = None) -> Array:
    """Return the effect of patching each key by itself, summed over the queries that attend to it, `[L,B,N,S]`.

    Args:
        patched_LBNTS: scores with all keys patched at once.
        sinks_LN: the heads' learnt sinks, see `Stack.sinks`.
    """
    # In each row a key's patch changes no score but its own, so the scores of all keys patched at once hold, column by
    # column, those of every key patched alone: one run serves all S patches.
    scores_LBNTS, patched_LBNTS = scores_LBNTS.astype(jnp.float32), patched_LBNTS.astype(jnp.float32)
    if sinks_LN is not None:
        # A sink is one more key, which no patch changes, and whose weight nothing reads.
        sinks_LN = sinks_LN.astype(jnp.float32)[:, None, :, None, None]
        scores_LBNTS, patched_LBNTS = (_with_column(scores, sinks_LN) for scores in (scores_LBNTS, patched_LBNTS))
        slope_LBNTS = _with_column(slope_LBNTS, jnp.zeros_like(sinks_LN))
    effects_LBNS = jax.vmap(jax.vmap(jax.vmap(_key_effects)))(slope_LBNTS, scores_LBNTS, patched_LBNTS)
    return effects_LBNS if sinks_LN is None else effects_LBNS[..., :-1]


def _with_column(x_LBNTS: Array, column: Array) -> Array:
    return jnp.concatenate([x_LBNTS, jnp.broadcast_to(column, (*x_LBNTS.shape[:-1], 1)).astype(x_LBNTS.dtype)], axis=-1)


def _key_effects(slope_TS: Array, scores_TS: Array, patched_TS: Array) -> Array:
    """Return the effect of each key's patch, summed over rows, `[S]`."""
    # Let `rest` be the logarithm of the other keys' summed exponentials. Then key s has the weight
    # sigmoid(score - rest) in its row, and the others share what is left in proportions that its patch does not change.
    # With `other` their mean slope in these proportions, the row's effect is
    #     (sigmoid(patched - rest) - sigmoid(score - rest)) * (slope - other).
    #
    # Both `rest` and `other` leave key s out. For all keys but the row's largest they follow from the whole row, by
    # 1 - weight. Of the largest, 1 - weight would be rounding where the softmax is saturated: there, the very case
    # that the fix is for, the sums are taken again without it.
    largest_TS = jnp.arange(scores_TS.shape[1])[None] == scores_TS.argmax(axis=1, keepdims=True)
    weight_TS = jax.nn.softmax(scores_TS, axis=1)
    small_TS = jnp.where(largest_TS, 0.0, weight_TS)
    mean_T1 = (weight_TS * slope_TS).sum(axis=1, keepdims=True)
    others_TS = jnp.where(largest_TS, jnp.finfo(jnp.float32).min, scores_TS)
    without_T1 = (jax.nn.softmax(others_TS, axis=1) * slope_TS).sum(axis=1, keepdims=True)
    other_TS = jnp.where(largest_TS, without_T1, (mean_T1 - small_TS * slope_TS) / (1 - small_TS))
    all_T1, rest_T1 = (jax.nn.logsumexp(scores, axis=1, keepdims=True) for scores in (scores_TS, others_TS))
    rest_TS = jnp.where(largest_TS, rest_T1, all_T1 + jnp.log1p(-small_TS))
    change_TS = jax.nn.sigmoid(patched_TS - rest_TS) - jax.nn.sigmoid(scores_TS - rest_TS)
    return (change_TS * (slope_TS - other_TS)).sum(axis=0)
