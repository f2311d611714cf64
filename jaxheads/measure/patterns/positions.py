"""Metrics of position: a pattern's sharpness, and its attention by distance, offset and first token.

Each function returns sums over the query rows that it gets, of which `ByRows` makes the value.

Dimension key: T query positions, S key positions, O offsets.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .example import Example
from .metric import Quotient, Scored, attention_sums, mean_sums, quotient

OFFSETS = tuple(range(-5, 6))
"""Relative positions, key minus query, from which `positional_share` takes the best."""

ABOVE = 0.3
"""Attention to the first token beyond which a head rests there (Gu et al. 2025)."""

TINY = 1e-37
"""Least argument of a logarithm. On CPU a `where` in its stead, or before it, takes five times as long."""


def entropy(pattern_TS: Array, example: Example, smoothing: float = 0.0) -> Quotient:
    """Mean over queries of −Σ_k A log A, in nats, with 0 log 0 = 0; from 0 to ln n (Clark et al. 2019).

    `smoothing` s takes (1 − s) A + s / n for A, over the example's n real keys: Clark's code has s = 1e-4. A learnt
    sink is one more key, so that a head that rests there has entropy 0, as one that rests on the first token; the
    largest entropy is then ln (n + 1).
    """
    A_TS = (1 - smoothing) * pattern_TS + smoothing / example.length.astype(jnp.float32) if smoothing else pattern_TS
    A_TS = A_TS * example.pairs.astype(jnp.float32)
    of_keys_T = -(A_TS * jnp.log(jnp.maximum(A_TS, TINY))).sum(axis=1)
    if example.sink is None:
        return mean_sums(of_keys_T, example.mask)
    sink_T = (1 - smoothing) * example.to_sink(pattern_TS)
    return mean_sums(of_keys_T - sink_T * jnp.log(jnp.maximum(sink_T, TINY)), example.mask)


def confidence(pattern_TS: Array, example: Example, without_last: bool = False) -> Quotient:
    """Mean over queries of the largest weight, max_k A; from 1/n to 1 (Voita et al. 2019), from 0 with a learnt sink.

    `without_last` leaves out the last real token as query and as key, without renormalising: Voita leaves out EOS.
    """
    real_T, keys_S = example.mask, example.keys
    if without_last:
        keys_S = keys_S & ~example.last_key
        real_T = real_T & (example.positions < example.query_count - 1)
    return mean_sums(jnp.where(keys_S[None, :], pattern_TS, 0.0).max(axis=1), real_T)


def distance(pattern_TS: Array, example: Example, without_first: bool = False) -> Quotient:
    """Mean distance of attention, Σ A |i − j| / Σ A over queries i and keys j; from 0 to n − 1 tokens.

    Vig & Belinkov 2019. `without_first` leaves out attention to the first token, where idle heads rest, as Vig &
    Belinkov do; the quotient renormalises the rest. An example without any attention left does not count.

    In an image the distance is that between the centres of patches in pixels (Dosovitskiy et al. 2021). Special tokens
    are left out, and each patch's attention to the other patches and itself is renormalised to sum to 1: the value is
    the mean over patches of Σ_j A |i − j| / Σ_j A. A patch that attends to special tokens alone is left out.
    """
    pairs_TS = example.pairs_with_distance
    if without_first:
        pairs_TS = pairs_TS & (example.key_positions > 0)[None, :]
    A_TS = jnp.where(pairs_TS, pattern_TS, 0.0)
    if example.patch is not None:
        total_T = A_TS.sum(axis=1)
        return mean_sums((A_TS * example.distances).sum(axis=1) / jnp.where(total_T > 0, total_T, 1.0), total_T > 0)
    return (A_TS * example.distances).sum(), A_TS.sum()


def previous_token(pattern_TS: Array, example: Example) -> Quotient:
    """Mean of A[i, i−1] over the queries i ≥ 1 (Olsson et al. 2022)."""
    return attention_sums(pattern_TS, example.pairs & (example.offsets == -1))


def next_token(pattern_TS: Array, example: Example) -> Quotient:
    """Mean of A[i, i+1] over the queries i ≤ n − 2; 0 if causal (Clark et al. 2019, who divide by n)."""
    return attention_sums(pattern_TS, example.pairs & (example.offsets == 1))


def self_token(pattern_TS: Array, example: Example) -> Quotient:
    """Mean of A[i, i] over all queries (Clark et al. 2019)."""
    return attention_sums(pattern_TS, example.pairs & (example.offsets == 0))


def first_token(pattern_TS: Array, example: Example) -> Quotient:
    """Mean over all queries of the attention to the first real token: the sink's α_1 (Gu et al. 2025)."""
    return attention_sums(pattern_TS, example.pairs & (example.key_positions == 0)[None, :])


def sink(pattern_TS: Array, example: Example, above: float = ABOVE) -> Quotient:
    """Whether the mean attention to the first real token exceeds `above`, as 0 or 1.

    Its mean over examples is the sink rate Sink_1^ε of Gu et al. 2025 (section 3), who take ε = 0.3 and T = 64.
    """
    del above  # which the whole example's mean is compared with
    return first_token(pattern_TS, example)


def is_above(sums: Quotient, example: Example, above: float = ABOVE) -> Scored:
    """Return whether the quotient of the sums exceeds `above`, as 0 or 1."""
    value, counts = quotient(sums, example)
    return (value > above).astype(jnp.float32), counts


def learnt_sink(pattern_TS: Array, example: Example) -> Quotient:
    """Mean over queries of the attention to the head's learnt sink, 1 − Σ_k A; 0 in models without (GPT-OSS has it).

    `first_token` and `sink` are about the first token alone, which models without learnt sinks use as one.
    """
    return mean_sums(example.to_sink(pattern_TS), example.mask)


def positional_share(pattern_TS: Array, example: Example, offsets: tuple[int, ...] = OFFSETS) -> Quotient:
    """Share of queries whose largest weight is at a fixed offset, for each offset, `[O]` (Voita et al. 2019).

    A query counts at an offset where a key exists there, even one that a causal mask hides: the numbers of causal and
    bidirectional models are over the same queries. Of equal weights the first is the largest. The table holds the best
    offset; Voita calls a head positional from 0.9 up. The best of eleven shares is biased upwards, most where examples
    are so short that few queries have a far key: use long examples, and let a null choose its best offset, too.
    """
    real_TS = jnp.where(example.keys[None, :], pattern_TS, -1.0)
    # The first largest, in two plain reductions: on CPU an argmax takes several times as long.
    S = real_TS.shape[1]
    largest_TS = jnp.where(real_TS == real_TS.max(axis=1, keepdims=True), jnp.arange(S)[None, :], S)
    offset_T = example.key_positions[largest_TS.min(axis=1)] - example.positions
    offsets_O1 = jnp.asarray(offsets, jnp.int32)[:, None]
    key_OT = example.positions[None, :] + offsets_O1
    exists_OT = example.mask[None, :] & (key_OT >= 0) & (key_OT < example.length)
    return jax.vmap(mean_sums)((offset_T[None, :] == offsets_O1).astype(jnp.float32), exists_OT)
