"""Means with their doubt: percentile bootstrap, of examples kept one by one or in groups.

NumPy in float64; the leading axis is always the examples. NaN means "this example says nothing for this cell" and is
left out; infinity is refused.

Dimension key: `E` examples (or rows), `C` cells (all other axes, flattened), `R` resamples.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .base import Floats, Interval, check_level, finite_or_nan, ratio

_BLOCK = 1 << 22  # numbers in one temporary array: 32 MB


def bootstrap_mean(
    values: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean over examples (Efron & Tibshirani 1993, chapter 13).

    `values` is `[E, ...]`; the fields of the result are `[...]`. Examples are resampled, not cells: one
    resample serves all cells, so dependence between heads is kept and the same seed gives comparable cells.
    `counts`, `[E]` or `[E, ...]`, says of how many examples each row is already the mean; rows then weigh
    accordingly, and a row that counts 0 says nothing.

    A cell without any example has NaN for all three, a cell with one has a mean but no interval (NaN): one
    example says nothing of the spread. A resample that happens to draw no example for a cell is left out
    there. Elsewhere `low <= mean <= high`, by clipping where a very skewed sample would break it.
    Memory is bounded by blocks, not by `R * E` or `R * C`.

    Raises ValueError for no rows, infinite values, negative counts, or options out of range.
    """
    x = finite_or_nan(values, "values")
    n = _counts_like(x, counts)
    return _bootstrap(np.where(n > 0, x, 0.0) * n, n, level, resamples, seed)


def bootstrap_ratio(
    values: ArrayLike, whole: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap the mean of `values` `[E, ...]` over the mean of `whole` `[E]`, examples resampled together.

    For what is told as a share of something that is itself estimated: a patching effect of the effect of
    patching everything. An example without `whole`, or a cell's without a value, is left out of both means. A
    whole whose mean is 0 gives NaN; one whose sign is in doubt gives a wide interval, as it should.

    Raises ValueError as `bootstrap_mean` does, and for a whole of another length.
    """
    x, w = finite_or_nan(values, "values"), finite_or_nan(whole, "whole")
    if w.shape != x.shape[:1]:
        raise ValueError(f"whole: expected one number for each of {len(x)} examples, got shape {list(w.shape)}")
    w = np.broadcast_to(w.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    says = ~np.isnan(x) & ~np.isnan(w)
    return _bootstrap(np.where(says, x, 0.0), np.where(says, w, 0.0), level, resamples, seed)


class GroupedRows:
    """Rows that come in batches without end, kept in bounded memory, with an exact mean and its interval.

    Up to `limit` examples every row is kept as it came (`per_example`) and `interval` is the plain bootstrap.
    When one more comes, neighbouring rows are added in pairs and from then on a row stands for a group of 2,
    4, 8 ... examples. So there are always between `limit / 2` and `limit` rows.

    The bootstrap over such groups is the right one: means of g independent examples are independent with
    variance s^2 / g, so the mean of E / g of them has variance s^2 / E whatever g is. What grouping costs is
    precision of the estimate of s, of relative size 1 / sqrt(2 (rows - 1)): 2 % for 1024 rows. Where
    neighbours in the stream are dependent (pieces of one document), groups keep them together, as a block
    bootstrap does, and the interval is more honest than that of single examples. (Batch means: Law & Kelton,
    Simulation Modeling and Analysis, section 9.5.)

    The result depends on the order of the examples, never on how the stream was cut into batches.
    """

    def __init__(self, limit: int = 2048):
        if limit < 2:
            raise ValueError(f"limit: expected at least 2 rows, got {limit}; fewer give no interval")
        self.limit = limit
        self._examples = 0
        self._group = 1
        self._sums: list[Floats] = []
        self._counts: list[NDArray[np.int64]] = []

    def add(self, values: ArrayLike) -> None:
        """Take in examples, `[E, ...]`, E may be 0. Raises ValueError for infinity or another shape."""
        x = finite_or_nan(values, "values", empty=True)
        if self._sums and x.shape[1:] != self._sums[0].shape:
            raise ValueError(
                f"values: expected examples of shape {list(self._sums[0].shape)}, like those added before, "
                f"got {list(x.shape[1:])}"
            )
        says = ~np.isnan(x)
        for row, count in zip(np.where(says, x, 0.0), says.astype(np.int64), strict=True):
            self._add_one(row, count)

    @property
    def examples(self) -> int:
        """How many examples were added."""
        return self._examples

    @property
    def rows(self) -> int:
        """How many rows are kept: the examples, or the groups they were merged into."""
        return len(self._sums)

    @property
    def per_example(self) -> Floats | None:
        """The examples as they came, `[E, ...]` float64 with NaN, or None once they were merged."""
        if self._group > 1:
            return None
        sums, counts = self._stacked()
        return np.where(counts > 0, sums, np.nan)

    @property
    def grouped(self) -> tuple[Floats, Floats]:
        """Of each row that is kept, the sum over its examples and how many say something: `[rows, ...]` each."""
        return self._stacked()

    def mean(self) -> Floats:
        """The mean over all examples that say something, `[...]`; NaN where none does."""
        sums, counts = self._stacked()
        return ratio(sums.sum(axis=0), counts.sum(axis=0))

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
        """The mean with its bootstrap interval over rows; see `bootstrap_mean` for what is NaN and when."""
        sums, counts = self._stacked()
        return _bootstrap(sums, counts, level, resamples, seed)

    def _add_one(self, row: Floats, count: NDArray[np.int64]) -> None:
        if self._examples == self._group * self.limit:
            self._sums, self._counts = _pairs(self._sums), _pairs(self._counts)
            self._group *= 2
        if self._examples % self._group:
            self._sums[-1] = self._sums[-1] + row
            self._counts[-1] = self._counts[-1] + count
        else:
            self._sums.append(row)
            self._counts.append(count)
        self._examples += 1

    def _stacked(self) -> tuple[Floats, Floats]:
        if not self._sums:
            raise ValueError("expected at least one example, got none: call add first")
        return np.stack(self._sums), np.stack(self._counts).astype(np.float64)


def _bootstrap(sums: Floats, counts: Floats, level: float, resamples: int, seed: int) -> Interval:
    """Bootstrap the ratio of sums to counts, both `[E, ...]`, over rows."""
    check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}")
    shape = sums.shape[1:]
    sums_EC, counts_EC = sums.reshape(len(sums), -1), counts.reshape(len(counts), -1)
    mean_C = ratio(sums_EC.sum(axis=0), counts_EC.sum(axis=0))
    low_C, high_C = np.full_like(mean_C, np.nan), np.full_like(mean_C, np.nan)
    doubtful_C = np.flatnonzero((counts_EC != 0).sum(axis=0) > 1)
    step = max(1, _BLOCK // max(resamples, len(sums)))
    for start in range(0, len(doubtful_C), step):
        cells = doubtful_C[start : start + step]
        means_RC = _resampled_means(sums_EC[:, cells], counts_EC[:, cells], resamples, seed)
        low, high = _percentiles(means_RC, level)
        low_C[cells] = np.minimum(low, mean_C[cells])
        high_C[cells] = np.maximum(high, mean_C[cells])
    return Interval(mean_C.reshape(shape), low_C.reshape(shape), high_C.reshape(shape))


def _percentiles(means_RC: Floats, level: float) -> Floats:
    """Lower and upper percentile of each cell, `[2, C]`; NaN where no resample says anything."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    missing_RC = np.isnan(means_RC)
    if not missing_RC.any():  # nanquantile is a Python loop over cells
        return np.quantile(means_RC, tails, axis=0)
    known_C = ~missing_RC.all(axis=0)
    bounds = np.full((2, means_RC.shape[1]), np.nan)
    bounds[:, known_C] = np.nanquantile(means_RC[:, known_C], tails, axis=0)
    return bounds


def _resampled_means(sums_EC: Floats, counts_EC: Floats, resamples: int, seed: int) -> Floats:
    if (counts_EC == counts_EC[:, :1]).all():  # the usual case, no NaN: one denominator serves every cell
        counts_EC = counts_EC[:, :1]
    blocks = [
        ratio(weights_RE @ sums_EC, weights_RE @ counts_EC) for weights_RE in _resamples(len(sums_EC), resamples, seed)
    ]
    return np.concatenate(blocks)


def _resamples(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield, in blocks `[R', E]`, how often each row is drawn in each resample: multinomial counts."""
    # a stream of its own: `default_rng(seed)` may well have made the data
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    step = max(1, _BLOCK // rows)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _pairs(rows: list[Any]) -> list[Any]:
    """Add neighbours; an odd last row stays alone, to be filled up."""
    return [sum(rows[i + 1 : i + 2], rows[i]) for i in range(0, len(rows), 2)]


def _counts_like(x: Floats, counts: ArrayLike | None) -> Floats:
    if counts is None:
        return (~np.isnan(x)).astype(np.float64)
    n = np.asarray(counts, dtype=np.float64)
    if n.shape == x.shape[:1]:
        n = n.reshape(-1, *[1] * (x.ndim - 1))
    if n.shape[:1] != x.shape[:1] or n.ndim != x.ndim or not np.all((n >= 0) & np.isfinite(n)):
        raise ValueError(
            f"counts: expected finite numbers from 0 up, of shape {[len(x)]} or {list(x.shape)}, "
            f"got shape {list(np.shape(counts))}, least {n.min(initial=np.inf)}"
        )
    return np.where(np.isnan(x), 0.0, np.broadcast_to(n, x.shape))
