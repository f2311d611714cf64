"""Attention in one function, through which every model computes it and every edit changes it.

Dimension key, used in names throughout jaxheads: B batch, T query positions, S key positions, N query heads,
K key/value heads, G = N // K query heads a key/value head, H head dimension, D model dimension, L layers, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..inputs.attention_inputs import RowBias
from ..inputs.masks import Mask
from ..inputs.query_rows import block_rows
from .lazy_sites import LazySites
from .row_blocks import attend_in_blocks
from .row_edits import Edit, RowEdit, unchanged
from .scoring import Bias, Scoring, readable, weighted_sum
from .tiled import attend_by_tile, can_tile


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    mask: Mask | Array,
    *,
    scale: float | Array,
    bias: Bias | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
    edit: Edit = unchanged,
) -> tuple[Array, Mapping[str, Any]]:
    """Compute softmax attention of N query heads over K shared key/value heads; `edit` may change every step.

    Query head n reads key/value head n // (N // K). Scores are scaled, capped (`cap * tanh(scores / cap)`), biased and
    masked. A bias that is a function reads the edited queries and keys. Masked entries are `finfo.min`, never -inf.
    They are masked again after an edit, so that no edit can attend to a masked key. The softmax is taken in float32 at
    least. The pattern of a query without a visible key (padding) is uniform, not NaN.

    With `sinks` `[N]` each head has a learnt score beside those of the keys, without a value (GPT-OSS; Miller 2023 has
    it at 0). A row of the pattern then sums to less than 1, and what is missing went to the sink. It reaches masks and
    edits by itself: where they hide all keys, the whole row is 0.

    Scores of more than `BLOCK_BYTES` are computed block by block of query rows, so that memory grows with the length,
    not with its square. They are whole all the same where `edit` or `bias` is a function that takes no rows.

    Args:
        mask: the keys that each query may attend to, as a description, or whole, bool `[B,T,S]`.

    Returns:
        z `[B,T,N,H]`, and the value at each of `sites.ATTENTION_SITES` as it was used, after its edits. Where attention
        ran in blocks, scores and patterns are made when they are read, and what the edit's readers returned is there.
    """
    q_BTNH, k_BSKH, v_BSKH = edit("q", q_BTNH), edit("k", k_BSKH), edit("v", v_BSKH)
    B, T, N, _ = q_BTNH.shape
    by_rows = isinstance(edit, RowEdit) and (not callable(bias) or isinstance(bias, RowBias))
    scoring, seen = Scoring(Mask.of(mask), scale, bias, cap, sinks, edit), {"q": q_BTNH, "k": k_BSKH, "v": v_BSKH}
    size = block_rows(B, N, T, k_BSKH.shape[1]) if by_rows else T
    if size < T:
        z_BTNH, sites = attend_in_blocks(q_BTNH, k_BSKH, v_BSKH, scoring, size)
    else:
        scores_BNTS = scoring.scores(q_BTNH, k_BSKH)
        pattern_BNTS = scoring.pattern(scores_BNTS)
        z_BTNH = _summed(q_BTNH, k_BSKH, v_BSKH, pattern_BNTS, scoring)
        sites = LazySites({"scores": scores_BNTS, "pattern": pattern_BNTS})
    z_BTNH = edit("z", z_BTNH)
    return z_BTNH, sites.beside({**seen, "z": z_BTNH})


def _summed(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, pattern_BNTS: Array, scoring: Scoring) -> Array:
    """Return z `[B,T,N,H]` before its edit."""

    def by_tile(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, _: Array) -> Array:
        return attend_by_tile(q_BTNH, k_BSKH, v_BSKH, scoring)

    def by_head(_q: Array, _k: Array, v_BSKH: Array, pattern_BNTS: Array) -> Array:
        return weighted_sum(pattern_BNTS, readable(v_BSKH))

    arrays = q_BTNH, k_BSKH, v_BSKH, pattern_BNTS
    # A float16 overflows in networks that are sound, and then has to reach only those queries that see it.
    if q_BTNH.dtype == jnp.float16 or not can_tile(scoring):
        return by_head(*arrays)
    return jax.lax.platform_dependent(*arrays, tpu=by_tile, default=by_head)
