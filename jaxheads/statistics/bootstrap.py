"""Percentile bootstrap of means, over single examples or groups of them.

NumPy in float64; the leading axis is always the examples. NaN marks a missing value and is left out; infinity is
refused.

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
    """Bootstrap the mean over examples, with percentile intervals (Efron & Tibshirani 1993, chapter 13).

    Examples are resampled, not cells: one resample serves all cells, so dependence between heads is kept and a seed
    gives comparable cells. A cell without any value has NaN for all three; a cell with one value has a mean but no
    interval (NaN). A resample that draws no value for a cell is left out of that cell. Otherwise
    `low <= mean <= high`, by clipping if a very skewed sample would break it. Temporary arrays have bounded size.

    Args:
        values: `[E,...]`; the fields of the result are `[...]`.
        counts: the number of examples whose mean each row is, `[E]` or `[E,...]`; rows are weighted by it.

    Raises:
        ValueError: for no rows, infinite values, negative counts, or options out of range.
    """
    x = finite_or_nan(values, "values")
    n = _counts_like(x, counts)
    return _bootstrap(np.where(n > 0, x, 0.0) * n, n, level, resamples, seed)


def bootstrap_ratio(
    values: ArrayLike, whole: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap the mean of `values` `[E,...]` over the mean of `whole` `[E]`, resampling examples together.

    It serves shares of an estimated quantity, such as one head's patching effect as a share of the effect of patching
    everything. An example whose value or whole is missing is left out of both means. A whole whose mean is 0 gives NaN;
    a whole of uncertain sign gives a wide interval.

    Raises:
        ValueError: as `bootstrap_mean`, and for a whole of another length.
    """
    x, w = finite_or_nan(values, "values"), finite_or_nan(whole, "whole")
    if w.shape != x.shape[:1]:
        raise ValueError(f"whole: expected one number for each of {len(x)} examples, got shape {list(w.shape)}")
    w = np.broadcast_to(w.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    known = ~np.isnan(x) & ~np.isnan(w)
    return _bootstrap(np.where(known, x, 0.0), np.where(known, w, 0.0), level, resamples, seed)


class GroupedRows:
    """A stream of examples in bounded memory, with its exact mean and a bootstrap interval.

    Up to `limit` examples, every row is one example (`per_example`) and `interval` is the plain bootstrap. The next
    example makes neighbouring rows merge in pairs: a row is then the sum of a group of 2 examples, later of 4, 8, ….
    So a long stream has between `limit / 2` and `limit` rows.

    The bootstrap over groups is valid: means of g independent examples are independent with variance s² / g, so the
    mean of E / g of them has variance s² / E for every g. Grouping costs precision of the estimate of s, of relative
    size 1 / sqrt(2 (rows − 1)): 2 % for 1024 rows. If neighbours in the stream are dependent (windows of one document),
    groups keep them together, as a block bootstrap does, and the interval is more accurate than that of single
    examples. (Batch means: Law & Kelton, Simulation Modeling and Analysis, section 9.5.)

    The result depends on the order of the examples, not on their division into batches.
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
        """Add examples, `[E,...]`; E may be 0.

        Raises:
            ValueError: for infinity or another shape.
        """
        x = finite_or_nan(values, "values", empty=True)
        if self._sums and x.shape[1:] != self._sums[0].shape:
            raise ValueError(
                f"values: expected examples of shape {list(self._sums[0].shape)}, like those added before, "
                f"got {list(x.shape[1:])}"
            )
        known = ~np.isnan(x)
        for row, count in zip(np.where(known, x, 0.0), known.astype(np.int64), strict=True):
            self._add_one(row, count)

    @property
    def examples(self) -> int:
        """Number of examples added."""
        return self._examples

    @property
    def rows(self) -> int:
        """Number of rows: single examples, or groups of merged ones."""
        return len(self._sums)

    @property
    def per_example(self) -> Floats | None:
        """The single examples, `[E,...]` float64 with NaN; None once they are merged."""
        if self._group > 1:
            return None
        sums, counts = self._stacked()
        return np.where(counts > 0, sums, np.nan)

    @property
    def grouped(self) -> tuple[Floats, Floats]:
        """Sum and number of the values in each row, `[rows,...]` each."""
        return self._stacked()

    def mean(self) -> Floats:
        """Return the mean over all values, `[...]`; NaN for a cell without one."""
        sums, counts = self._stacked()
        return ratio(sums.sum(axis=0), counts.sum(axis=0))

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
        """Return the mean with its bootstrap interval over rows; `bootstrap_mean` explains NaN."""
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
    """Bootstrap the ratio of sums to counts, both `[E,...]`, over rows."""
    check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}")
    shape = sums.shape[1:]
    sums_EC, counts_EC = sums.reshape(len(sums), -1), counts.reshape(len(counts), -1)
    mean_C = ratio(sums_EC.sum(axis=0), counts_EC.sum(axis=0))
    low_C, high_C = np.full_like(mean_C, np.nan), np.full_like(mean_C, np.nan)
    # A single row has no spread: such cells keep NaN.
    several_C = np.flatnonzero((counts_EC != 0).sum(axis=0) > 1)
    step = max(1, _BLOCK // max(resamples, len(sums)))
    for start in range(0, len(several_C), step):
        cells = several_C[start : start + step]
        means_RC = _resampled_means(sums_EC[:, cells], counts_EC[:, cells], resamples, seed)
        low, high = _percentiles(means_RC, level)
        low_C[cells] = np.minimum(low, mean_C[cells])
        high_C[cells] = np.maximum(high, mean_C[cells])
    return Interval(mean_C.reshape(shape), low_C.reshape(shape), high_C.reshape(shape))


def _percentiles(means_RC: Floats, level: float) -> Floats:
    """Return the lower and upper percentile of each cell, `[2,C]`; NaN for a cell without any resample."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    missing_RC = np.isnan(means_RC)
    if not missing_RC.any():  # nanquantile loops over cells in Python
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
    """Yield, in blocks `[R',E]`, the multinomial number of draws of each row in each resample."""
    # A separate random stream: the data themselves may come from `default_rng(seed)`.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    step = max(1, _BLOCK // rows)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _pairs(rows: list[Any]) -> list[Any]:
    """Add neighbours in pairs; an odd last row stays, and the next examples are added to it."""
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
