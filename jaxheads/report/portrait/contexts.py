"""Contexts in which each head looks hardest at one place, and the tokens that it looks at more than others do.

Dimension key: L layers, N heads, M = L N heads in the order of the grid, C contexts, V tokens that occur.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .strongest_keys import Text

CONTEXTS = 6
"""Contexts of each head, each of another text."""

SHOWN_KEYS = 5
"""Keys of a context's query."""

LEAST_WEIGHT = 0.005
"""Smallest weight that is shown."""

TOKENS = 8
"""Tokens that a head attends to more than their share."""

LEAST_TIMES = 3
"""Number of times that a token must occur before its share of attention is told."""


def places_of(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each head the texts in which one weight outside special positions is largest, and its query there.

    Numbers of texts and positions, `[M,C]` twice, the largest weight first, each of another text.
    """
    scores, queries = (np.stack([text.scores[which].reshape(-1) for text in texts]) for which in (0, 1))
    order_CM = np.argsort(-scores.astype(np.float32), axis=0, kind="stable")[:CONTEXTS]
    return order_CM.T, np.take_along_axis(queries, order_CM, axis=0).T


def contexts_of(texts: Sequence[Text], texts_MC: np.ndarray, queries_MC: np.ndarray) -> list[list[dict[str, Any]]]:
    """Return the contexts of each head as plain values: text, query, its keys with their weights."""
    contexts: list[list[dict[str, Any]]] = []
    for head, (numbers, queries) in enumerate(zip(texts_MC, queries_MC, strict=True)):
        contexts.append([])
        for number, query in zip(numbers.tolist(), queries.tolist(), strict=True):
            text = texts[number]
            weights, keys = (values.reshape(-1, *values.shape[2:])[head, query] for values in (text.weights, text.keys))
            strongest = zip(keys[:SHOWN_KEYS].tolist(), weights[:SHOWN_KEYS].tolist(), strict=True)
            shown = [[key, round(weight, 3)] for key, weight in strongest if weight >= LEAST_WEIGHT]
            contexts[-1].append({"text": number, "query": query, "keys": shown})
    return contexts


def attended_tokens(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of tokens that occur, `[V]`, their share of positions `[V]`, and of each head's attention `[M,V]`.

    Special positions are left out of both, and tokens that occur fewer than LEAST_TIMES times of the answer: shares
    are of all the others, 0 for a head that looks at nothing but special positions.
    """
    ids = np.concatenate([text.ids[~text.special] for text in texts])
    known, counts = np.unique(ids, return_counts=True)
    heads = int(np.prod(texts[0].weights.shape[:2]))
    mass = np.zeros((heads, len(known)))
    for text in texts:
        index = np.searchsorted(known, text.ids).clip(max=len(known) - 1)
        counted = ~text.special[text.keys] & ~text.special[:, None]
        weights = np.where(counted, text.weights, np.float16(0)).astype(np.float64).reshape(heads, -1)
        keys = index[text.keys].reshape(heads, -1)
        for head in range(heads):
            mass[head] += np.bincount(keys[head], weights[head], minlength=len(known))
    total = mass.sum(axis=1, keepdims=True)
    shares = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    often = counts >= LEAST_TIMES
    return known[often], (counts / counts.sum())[often], shares[:, often]


def favourites(shares_MV: np.ndarray, usual_V: np.ndarray, count: int = TOKENS) -> np.ndarray:
    """Return the columns whose share of a head's attention exceeds their share of positions most, `[M,count]`.

    In the order of share × log(share / usual share), the terms of the divergence between both.
    """
    ratio = np.divide(shares_MV, usual_V, out=np.ones_like(shares_MV), where=shares_MV > 0)
    return np.argsort(-(shares_MV * np.log(ratio)), axis=1, kind="stable")[:, :count]
