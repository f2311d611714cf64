"""Metrics of attention by token: repeats, classes of tokens, relations between them, needles.

Dimension key: T query positions, S key positions.
"""

import jax.numpy as jnp
from jax import Array

from ...arguments import checked
from .example import Example
from .metric import ByRows, Metric, Quotient, Scored, attention_sums, mean_sums


def duplicate_token(pattern_TS: Array, example: Example) -> Quotient:
    """Mean of Σ A[q, j] over the j < q with the token of q, over queries that repeat a token (Wang et al. 2022)."""
    assert example.tokens is not None
    same_TS = example.tokens[:, None] == example.key_tokens[None, :]
    return attention_sums(pattern_TS, example.pairs & same_TS & (example.offsets < 0))


def induction(pattern_TS: Array, example: Example, after: int = 1) -> Quotient:
    """Prefix matching: attention to the token after an earlier copy of the query's token (Olsson et al. 2022).

    Mean of Σ A[q, j + 1] over all j < q with the token of q and j + 1 < q, over the queries q that have such a j.
    Olsson's text says "preceded"; their mechanism, and this metric, takes the token *after* the copy. `after=-1` is the
    literal reading. A head that looks back by a fixed distance scores too where that is the period of the repeats: vary
    the period.
    """
    assert example.tokens is not None
    token_S, exists_S = example.key_neighbours(-after)
    copy_offsets_TS = example.offsets - after  # from the query to the earlier copy
    match_TS = (example.tokens[:, None] == token_S[None, :]) & exists_S[None, :]
    return attention_sums(pattern_TS, example.pairs & match_TS & (example.offsets < 0) & (copy_offsets_TS < 0))


def _class_attention(pattern_TS: Array, example: Example, mark: str, queries: str | None) -> Quotient:
    counted_T = example.mask if queries is None else example.mask & example.query_mark(queries)
    return mean_sums((pattern_TS * example.mark(mark)).sum(axis=1), counted_T)


@checked()
def token_class(mark: str, queries: str | None = None) -> Metric:
    """Return the metric of attention to a class of tokens, Σ_q Σ_{k∈c} A[q,k] / n; from 0 to 1.

    Clark et al. 2019, section 3.1.

    Args:
        mark: the class, a mark of the batch `[B,S]`.
        queries: a class of queries `[B,T]`, the only ones that count. With "[SEP] to [SEP]" Clark's denominator is
            their number. All real queries count when left out, [CLS] and [SEP] included.
    """
    name = f"token_class_{mark}" if queries is None else f"token_class_{queries}_to_{mark}"
    marks = (mark,) if queries is None else (mark, queries)
    return Metric(name, ByRows(_class_attention), (("mark", mark), ("queries", queries)), marks=marks, range=(0.0, 1.0))


def _marked_share(pattern_TS: Array, example: Example, mark: str, with_first: bool) -> Quotient:
    counted_TS = example.pairs if with_first else example.pairs & (example.key_positions > 0)[None, :]
    A_TS = jnp.where(counted_TS, pattern_TS, 0.0)
    return (A_TS * example.mark(mark)).sum(), A_TS.sum()


@checked()
def marked_share(mark: str, with_first: bool = False) -> Metric:
    """Return the metric Σ A · mark / Σ A: the share of all attention to marked keys, or marked pairs; from 0 to 1.

    Marks of tokens give the share of a part of speech; marks of pairs give the alignment with dependencies, DepAl
    (Vig & Belinkov 2019, sections 4.2 and 4.3). They leave out attention to the first token, where idle heads rest;
    `with_first` counts it. An example without any attention left does not count.
    """
    name = f"marked_share_{mark}" + ("_with_first" if with_first else "")
    return Metric(
        name, ByRows(_marked_share), (("mark", mark), ("with_first", with_first)), marks=(mark,), range=(0.0, 1.0)
    )


def _copies(pattern_TS: Array, example: Example, needle: str, answer: str, repeats: bool) -> tuple[Array, Array]:
    """Return how many steps copy, and how many of them each key is copied by, `[S]`."""
    del repeats
    needle_S = (example.raw_mark(needle).astype(bool)) & example.keys
    written_T, exists_T = example.neighbours(1)  # the token that each step writes
    steps_T = exists_T & example.query_mark(answer)
    largest_T = jnp.argmax(jnp.where(example.keys[None, :], pattern_TS, -1.0), axis=1)
    copies_T = steps_T & needle_S[largest_T] & (example.key_tokens[largest_T] == written_T)
    steps_of_S = jnp.zeros(len(needle_S)).at[largest_T].add(copies_T.astype(jnp.float32))
    return copies_T.sum(dtype=jnp.float32), steps_of_S


def _copied_share(sums: tuple[Array, Array], example: Example, needle: str, answer: str, repeats: bool) -> Scored:
    del answer
    copies, steps_of_S = sums
    needle_S = (example.raw_mark(needle).astype(bool)) & example.keys
    # Each token's first column in the sorted text: a comparison of all pairs of tokens would be [S,S].
    number_S = jnp.searchsorted(jnp.sort(example.key_tokens), example.key_tokens)

    def is_token_of(those_S: Array) -> Array:
        return jnp.zeros_like(those_S).at[number_S].max(those_S)

    # A token that the needle holds twice counts once.
    distinct_tokens = is_token_of(needle_S).sum(dtype=jnp.float32)
    copied = copies if repeats else is_token_of(needle_S & (steps_of_S > 0)).sum(dtype=jnp.float32)
    return copied / jnp.maximum(distinct_tokens, 1.0), distinct_tokens > 0


@checked()
def retrieval(needle: str, answer: str, repeats: bool = False) -> Metric:
    """Return the metric |g ∩ k| / |k|: the share of the needle's tokens that the head copies; from 0 to 1.

    Wu et al. 2024, section 2. A token is copied at a step where the head's largest weight is on a token of the needle
    and that token is written next. The batch holds the text with its answer (teacher forcing), so the token written
    next is the next token of the batch, whatever the model itself would answer.

    Args:
        needle: mark `[B,S]` of the needle's tokens, k.
        answer: mark `[B,T]` of the positions that predict the answer's tokens, each one before its token.
        repeats: count 1 / |k| for every step that copies, repeats included, as the authors' code does; may exceed 1.
    """
    name = f"retrieval_{needle}" + ("_repeats" if repeats else "")
    options = (("needle", needle), ("answer", answer), ("repeats", repeats))
    return Metric(name, ByRows(_copies, _copied_share), options, needs="ids", marks=(needle, answer), range=(0.0, 1.0))
