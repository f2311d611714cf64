"""Contexts in which each head looks hardest at one place, and the tokens that it looks at more than others do.

Dimension key: L layers, N heads, M = L N heads in the order of the grid, C contexts, U tokens that occur.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...measure.sampling.answer import HeadSample, Samples, TokenScores

CONTEXTS = 6
"""Contexts of each head, each of another text."""

SHOWN_KEYS, LEAST_WEIGHT = 5, 0.005
"""Keys of a context's query, and the smallest weight that is shown."""

TOKENS = 8
"""Tokens that a head attends to more than their share."""

LEAST_TIMES = 3
"""Number of times that a token must occur before its share of attention is told."""


def leading_samples(samples: Samples) -> list[list[HeadSample]]:
    """Return for each head the samples in which its largest weight is largest, M lists of at most CONTEXTS."""
    return [[own for own in chosen if own.kind == "top"][:CONTEXTS] for chosen in samples.samples.values()]


def places_of(leading: Sequence[Sequence[HeadSample]]) -> tuple[np.ndarray, np.ndarray]:
    """Return number of the text and position of the query of each context, `[M,C]` twice; −1 where there are fewer."""
    places = np.full((2, len(leading), CONTEXTS), -1)
    for head, own in enumerate(leading):
        for number, sample in enumerate(own):
            places[:, head, number] = sample.example, sample.query
    return places[0], places[1]


def contexts_of(leading: Sequence[Sequence[HeadSample]]) -> list[list[dict[str, Any]]]:
    """Return the contexts of each head as plain values: text, query, its keys with their weights."""
    return [[_context(sample) for sample in own] for own in leading]


def _context(sample: HeadSample) -> dict[str, Any]:
    keys, weights = sample.top_keys[sample.query].tolist(), sample.top_weights[sample.query].tolist()
    shown = [
        [key, round(weight, 3)] for key, weight in zip(keys, weights, strict=True) if key >= 0 and weight > LEAST_WEIGHT
    ]
    return {"text": sample.example, "query": sample.query, "keys": shown[:SHOWN_KEYS]}


def texts_of(samples: Samples, leading: Sequence[Sequence[HeadSample]]) -> dict[int, list[str]]:
    """Return by number the tokens of every text that is shown, nothing where positions are no tokens."""
    shown = {sample.example: sample.queries for own in leading for sample in own}
    return {number: samples.words(ids) for number, ids in sorted(shown.items()) if ids is not None}


def attended_tokens(scores: TokenScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of tokens `[U]`, their share of positions `[U]`, and of each head's attention `[M,U]`.

    Tokens that occur fewer than LEAST_TIMES times are left out of the answer, not of the sums. The shares of a head
    that looks at nothing but special positions are 0.
    """
    heads = int(np.prod(scores.values.shape[:2]))
    mass = scores.values.reshape(heads, -1).astype(np.float64) * scores.n
    total = mass.sum(axis=1, keepdims=True)
    shares = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    often = scores.n >= LEAST_TIMES
    return scores.ids[often], (scores.n / max(1, scores.n.sum()))[often], shares[:, often]


def favourites(shares_MU: np.ndarray, usual_U: np.ndarray, count: int = TOKENS) -> np.ndarray:
    """Return the columns whose share of a head's attention exceeds their share of positions most, `[M,count]`.

    In the order of share × log(share / usual share), the terms of the divergence between both.
    """
    ratio = np.divide(shares_MU, usual_U, out=np.ones_like(shares_MU), where=shares_MU > 0)
    return np.argsort(-(shares_MU * np.log(ratio)), axis=1, kind="stable")[:, :count]
