"""Heads that write what is most alike, by the linear CKA of their outputs on some inputs (Kornblith et al. 2019)."""

from typing import Any, Unpack

import numpy as np

from ...execution.resources import Options
from ...measure.similarity.redundancy import HeadPairs, compare_heads
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...statistics import split_halves

BATCHES = 2
"""Batches that heads are compared on, of 16 inputs each."""

NEIGHBOURS = 5
"""Heads that are shown beside each."""


def neighbours(model: Model, batches: list[Batch], **options: Unpack[Options]) -> list[list[dict[str, Any]]]:
    """Return the heads most similar to each, with their similarity, its interval and the number of inputs.

    One half of the inputs chooses them, by the lower ends of the intervals. The other half gives the numbers, in the
    order of the choice. CKA is between 0 and 1; its debiased estimate is set to the nearer end where it leaves them.

    Raises:
        ValueError: for inputs that are too few, too short or too long to compare heads on.
    """
    used = batches[:BATCHES]
    sizes = [len(batch) for batch in used]
    labels = [batch.cluster_labels for batch in used]
    clusters = (
        None if any(own is None for own in labels) else np.concatenate([own for own in labels if own is not None])
    )
    halves = split_halves(sum(sizes), options.get("seed", 0), clusters)
    chosen, pairs = (_compared(model, used, half, **options) for half in halves)
    # By the lower end: of hundreds of pairs, those with the largest similarity are the least certain ones.
    least = np.nan_to_num(chosen.low, nan=-np.inf)
    np.fill_diagonal(least, -np.inf)
    order = np.argsort(-least, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(least) - 1)]
    value, low, high = (np.clip(own, 0, 1) for own in (pairs.values, pairs.low, pairs.high))
    return [
        [
            {
                "layer": pairs.heads[other][0],
                "head": pairs.heads[other][1],
                "value": float(value[head, other]),
                "low": float(low[head, other]),
                "high": float(high[head, other]),
                "n": int(pairs.n[head, other]),
            }
            for other in map(int, order[head])
            # A head that writes nothing is like no other; no head is its own neighbour.
            if np.isfinite([least[head, other], value[head, other], low[head, other], high[head, other]]).all()
        ]
        for head in range(len(least))
    ]


def _compared(model: Model, batches: list[Batch], half: np.ndarray, **options: Unpack[Options]) -> HeadPairs:
    """Compare heads on some of the inputs, by their numbers over all batches."""
    ends = np.cumsum([len(batch) for batch in batches])
    own = [
        half[(half >= end - len(batch)) & (half < end)] - end + len(batch)
        for batch, end in zip(batches, ends, strict=True)
    ]
    stream = [batch.take(rows) for batch, rows in zip(batches, own, strict=True) if len(rows)]
    return compare_heads(model, stream, "cka", **options)
