"""Accumulator of the scores of chunk after chunk, in bounded host memory, and the table it gives.

Dimension key: E examples, B examples of a chunk, L layers, N heads, O entries of a vector metric, C entries of all
metrics, one metric after the other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...models.inputs.batch import Positions
from ...provenance import Identified, provenance
from ...statistics import GroupedRows, Interval
from ...tables import Column, HeadTable
from .metric import Metric


class ScoreAccumulator:
    """Scores of all examples so far: kept one by one up to `GroupedRows`' limit, then in groups."""

    def __init__(self, metrics: tuple[Metric, ...]):
        self.metrics = metrics
        self.rows = {metric.name: GroupedRows() for metric in metrics}
        self.tokens = 0
        self.not_finite = 0
        self.digest = hashlib.sha256()

    @property
    def examples(self) -> int:
        """Number of examples so far."""
        return next(iter(self.rows.values())).examples

    def add(self, positions: Positions, scores_BLNC: np.ndarray, clusters_B: np.ndarray | None) -> None:
        """Add a chunk: the positions of its queries, scores as `packed` gives them, and labels of clusters."""
        self.not_finite += int(np.isinf(scores_BLNC).sum())
        finite_BLNC = np.where(np.isfinite(scores_BLNC), scores_BLNC, np.nan)
        start = 0
        for metric in self.metrics:
            end = start + max(1, len(metric.best_of))
            scores = finite_BLNC[..., start:end] if metric.best_of else finite_BLNC[..., start]
            self.rows[metric.name].add(scores, clusters_B)
            start = end
        ids = np.zeros(positions.shape, int) if positions.ids is None else np.asarray(positions.ids)
        for tokens, mask in zip(ids, np.asarray(positions.mask), strict=True):
            self.tokens += int(mask.sum())
            self.digest.update(np.int64(mask.sum()).tobytes() + tokens[mask].astype("<i4").tobytes())

    def table(
        self, model: Identified, stack: str, about: Mapping[str, Any], *, level: float, seed: int, squeeze: bool
    ) -> HeadTable:
        """Return the table of all examples; `about` is added to its provenance."""
        columns, extras = self._columns(level, about["of"] in ("weights", "norms"))
        details = provenance(
            model,
            **about,
            stack=stack,
            metrics={metric.name: dict(metric.options) for metric in self.metrics},
            examples=self.examples,
            tokens=self.tokens,
            tokens_sha256=self.digest.hexdigest(),
            units={metric.name: metric.unit for metric in self.metrics if metric.unit},
            nothing_to_measure=[name for name, rows in self.rows.items() if np.isnan(rows.mean()).all()],
            not_finite=self.not_finite,
            level=level,
            seed=seed,
        )
        clusters = next(iter(self.rows.values())).clusters
        return HeadTable.from_columns(
            "measure", stack, columns, details, squeeze=squeeze, extras=extras, clusters=clusters
        )

    def _columns(self, level: float, shares: bool) -> tuple[dict[str, Column], dict[str, np.ndarray]]:
        columns: dict[str, Column] = {}
        extras: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            rows = self.rows[metric.name]
            # Norms that are not divided by their sum are no shares of it.
            within = metric.range if shares or metric.range is None else (min(0.0, metric.range[0]), np.inf)
            interval, per_example = rows.interval(level=level, within=within), rows.per_example
            if metric.best_of:
                best_LN = _best(interval.mean, metric.best_of)
                interval = Interval(*(_pick(field, best_LN) for field in interval))
                per_example = None if per_example is None else _pick(per_example, best_LN)
                extras[metric.label] = np.asarray(metric.best_of)[best_LN]
            columns[metric.name] = Column(*interval, per_example, range=within)
        return columns, extras


def _best(mean_LNO: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return the index of each head's largest entry, `[L,N]`; of those equal up to float32, the one nearest to 0."""
    order_O = np.argsort(np.abs(labels), kind="stable")
    return order_O[np.argmax(np.nan_to_num(mean_LNO, nan=-np.inf).round(6)[..., order_O], axis=-1)]


def _pick(values: np.ndarray, best_LN: np.ndarray) -> np.ndarray:
    """Return each head's entry `best_LN` of values `[…,L,N,O]`, as `[…,L,N]`."""
    index = best_LN.reshape(*[1] * (values.ndim - 3), *best_LN.shape, 1)
    return np.take_along_axis(values, index, axis=-1)[..., 0]
