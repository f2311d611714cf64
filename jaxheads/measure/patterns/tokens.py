"""What a pattern looks at, by what the tokens are: repeats, classes, relations, needles.

Dimension key: T query positions, S key positions.
"""

import jax.numpy as jnp
from jax import Array

from .example import Example
from .metric import Metric, Scored, attention_to, mean


def duplicate_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean of Σ A[q, j] over the j < q with the same token, over queries that have one (Wang et al. 2022)."""
    assert example.tokens is not None
    same_TS = example.tokens[:, None] == example.tokens[None, :]
    return attention_to(pattern_TS, example.pairs & same_TS & (example.offsets < 0))


def induction(pattern_TS: Array, example: Example, after: int = 1) -> Scored:
    """Prefix matching: attention to what came after the same token before (Olsson et al. 2022).

    Mean of Σ A[q, j + 1] over all j < q with the same token as q and j + 1 < q, over the queries q that have
    such a j. Olsson's text says "preceded"; their mechanism, and this, takes the token *after* it. `after=-1`
    is the literal reading. A head that merely looks back by a fixed distance scores too where that is the
    period: vary it.
    """
    assert example.tokens is not None
    token_T, there_T = example.neighbours(-after)
    back_TS = example.offsets - after
    match_TS = (example.tokens[:, None] == token_T[None, :]) & there_T[None, :]
    return attention_to(pattern_TS, example.pairs & match_TS & (example.offsets < 0) & (back_TS < 0))


def _class(pattern_TS: Array, example: Example, mark: str, queries: str | None) -> Scored:
    real_T = example.mask if queries is None else example.mask & (example.given(queries).astype(bool))
    return mean((pattern_TS * example.mark(mark)).sum(axis=1), real_T)


def token_class(mark: str, queries: str | None = None) -> Metric:
    """Attention to a class of tokens, Σ_q Σ_{k∈c} A[q,k] / n; from 0 to 1 (Clark et al. 2019, section 3.1).

    Args:
        mark: the class, a mark of the batch `[B,S]`.
        queries: count only queries of this class, `[B,T]`: Clark's "[SEP] to [SEP]", whose denominator is their number.
            All real queries when left out, [CLS] and [SEP] included.
    """
    name = f"token_class_{mark}" if queries is None else f"token_class_{queries}_to_{mark}"
    marks = (mark,) if queries is None else (mark, queries)
    return Metric(name, _class, (("mark", mark), ("queries", queries)), marks=marks)


def _share(pattern_TS: Array, example: Example, mark: str, with_first: bool) -> Scored:
    counted_TS = example.pairs if with_first else example.pairs & (example.key_positions > 0)[None, :]
    A_TS = jnp.where(counted_TS, pattern_TS, 0.0)
    total = A_TS.sum()
    return (A_TS * example.mark(mark)).sum() / jnp.where(total > 0, total, 1.0), total > 0


def marked_share(mark: str, with_first: bool = False) -> Metric:
    """Share of all attention that goes to marked keys, or marked pairs, Σ A · mark / Σ A; from 0 to 1.

    With a mark of each token it is the share of a part of speech, with one of each query and key the alignment with
    dependencies, DepAl (Vig & Belinkov 2019, sections 4.2 and 4.3). They leave out attention to the first token as a
    key, where heads rest that have nothing to do; `with_first` counts it. Nothing counts where nothing is left.
    """
    name = f"marked_share_{mark}" + ("_with_first" if with_first else "")
    return Metric(name, _share, (("mark", mark), ("with_first", with_first)), marks=(mark,))


def _retrieval(pattern_TS: Array, example: Example, needle: str, answer: str, repeats: bool) -> Scored:
    assert example.tokens is not None
    needle_S = (example.given(needle).astype(bool)) & example.keys
    copied_T, there_T = example.neighbours(1)  # the token that is written at each step
    steps_T = there_T & (example.given(answer).astype(bool))
    looked_T = jnp.argmax(jnp.where(example.keys[None, :], pattern_TS, -1.0), axis=1)
    hits_T = steps_T & needle_S[looked_T] & (example.tokens[looked_T] == copied_T)
    same_SS = (example.tokens[:, None] == example.tokens[None, :]) & needle_S[:, None] & needle_S[None, :]
    once_S = jnp.where(needle_S, 1 / jnp.maximum(same_SS.sum(axis=1, dtype=jnp.float32), 1.0), 0.0)
    kinds = once_S.sum()  # distinct tokens of the needle
    if repeats:
        return hits_T.sum(dtype=jnp.float32) / jnp.maximum(kinds, 1.0), kinds > 0
    copied_from_S = (hits_T[:, None] & (looked_T[:, None] == jnp.arange(len(needle_S))[None, :])).any(axis=0)
    copied_S = (same_SS & copied_from_S[None, :]).any(axis=1)
    return jnp.where(copied_S, once_S, 0.0).sum() / jnp.maximum(kinds, 1.0), kinds > 0


def retrieval(needle: str, answer: str, repeats: bool = False) -> Metric:
    """Share of the needle's tokens that the head copies, |g ∩ k| / |k|; from 0 to 1 (Wu et al. 2024, section 2).

    A token is copied at a step where the head's largest weight is on a needle's token and that token is what is
    written next. The text is given whole, its answer included (teacher forcing), so that what is written next is the
    next token; a model that answers otherwise is not asked.

    Args:
        needle: mark `[B,S]` of the needle's tokens, k.
        answer: mark `[B,T]` of the positions that predict the answer's tokens: each the one before.
        repeats: as the authors' code has it: 1 / |k| for every step that copies, repeats and all; may exceed 1.
    """
    name = f"retrieval_{needle}" + ("_repeats" if repeats else "")
    options = (("needle", needle), ("answer", answer), ("repeats", repeats))
    return Metric(name, _retrieval, options, needs="ids", marks=(needle, answer))
