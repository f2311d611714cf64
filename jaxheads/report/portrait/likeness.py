"""Heads that write what is most alike, by the linear CKA of their outputs on some inputs (Kornblith et al. 2019)."""

from typing import Any, Unpack

import numpy as np

from ...execution.resources import Options
from ...measure.similarity.redundancy import compare_heads
from ...models.inputs.batch import Batch
from ...models.model import Model

COMPARED = 16
"""Inputs that heads are compared on."""

NEIGHBOURS = 5
"""Heads that are shown beside each."""


def neighbours(model: Model, batches: list[Batch], **options: Unpack[Options]) -> list[list[dict[str, Any]]]:
    """Return the heads most similar to each, by the lower ends of the intervals, and the number of inputs.

    Raises:
        ValueError: for inputs that are too short or too long to compare heads on.
    """
    pairs = compare_heads(model, batches[0].take(np.arange(min(COMPARED, len(batches[0])))), "cka", **options)
    # By the lower end: of hundreds of pairs, those with the largest similarity are the least certain ones.
    least = np.nan_to_num(pairs.low, nan=-np.inf)
    np.fill_diagonal(least, -np.inf)
    order = np.argsort(-least, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(least) - 1)]
    return [
        [
            {
                "layer": pairs.heads[other][0],
                "head": pairs.heads[other][1],
                "value": float(pairs.values[head, other]),
                "low": float(pairs.low[head, other]),
                "high": float(pairs.high[head, other]),
                "n": int(pairs.n[head, other]),
            }
            for other in map(int, order[head])
        ]
        for head in range(len(least))
    ]
