"""Means with their doubt: bootstrap intervals, paired tests and the price of having tried many heads.

Everything here is NumPy in float64 and knows nothing of models. The leading axis is always the examples.
NaN means "this example says nothing for this cell" and is left out; infinity is refused.

Dimension key: `E` examples (or rows), `C` cells (all other axes, flattened), `R` resamples.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

_BLOCK = 1 << 22  # numbers in one temporary array: 32 MB


class Interval(NamedTuple):
    """A mean with its confidence interval; every field has the shape of one example, float64."""

    mean: Floats
    low: Floats
    high: Floats


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
    x = _finite_or_nan(values, "values")
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
    x, w = _finite_or_nan(values, "values"), _finite_or_nan(whole, "whole")
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
        x = _finite_or_nan(values, "values", empty=True)
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
        return _ratio(sums.sum(axis=0), counts.sum(axis=0))

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


def check_level(level: float) -> None:
    """Raise ValueError unless a level of confidence lies between 0 and 1: for those who compute long before."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}; 95 % is 0.95")


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's, over the cells that both have; None where one of them is the same everywhere."""
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any() or np.ptp(one[known]) == 0 or np.ptp(other[known]) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(one[known]), stats.rankdata(other[known]))[0, 1])


def false_discovery(p_values: ArrayLike) -> Floats:
    """Turn p-values of many heads into q-values, in the same shape (Benjamini & Hochberg 1995).

    Calling every head with q <= a special keeps the expected share of false calls at or under a, for
    independent or positively dependent tests. NaN (not tested) stays NaN and is not counted as tried.
    Raises ValueError for numbers outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = ~np.isnan(p)
    if not np.all((p[tested] >= 0) & (p[tested] <= 1)):
        wrong = p[tested & ~((p >= 0) & (p <= 1))][0]
        raise ValueError(f"p_values: expected numbers from 0 to 1 or NaN, got {wrong}")
    q = np.full(p.shape, np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def paired_p_values(scores: ArrayLike, null: ArrayLike) -> Floats:
    """Test per cell whether `scores` exceed `null` on the same examples (one-sided paired t-test).

    Both are `[E, ...]`; the result is `[...]`. A pair with a NaN on either side is left out; a cell with
    fewer than two pairs is not tested (NaN).

    Where the n differences are all equal, up to the rounding of the inputs' dtype, there is no spread for a
    t distribution to be measured by. The exact sign-flip test speaks instead: equal and positive gives
    2^-n, the least that n examples can give without assuming a distribution; equal and zero or negative
    gives 1. So 4 examples never call a head special by being all alike, 20 do.

    Raises ValueError for fewer than 2 examples, different shapes, or infinity.
    """
    a, b = _finite_or_nan(scores, "scores"), _finite_or_nan(null, "null")
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"expected scores and null of one shape with at least 2 examples leading, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    difference = a - b
    n = (~np.isnan(difference)).sum(axis=0)
    mean = _ratio(np.nansum(difference, axis=0), n)
    deviation = np.sqrt(_ratio(np.nansum((difference - mean) ** 2, axis=0), np.maximum(n - 1, 0)))
    magnitude = np.where(np.isnan(difference), 0.0, np.maximum(np.abs(a), np.abs(b))).max(axis=0)
    rounding = 4 * max(_resolution(scores), _resolution(null)) * magnitude
    alike = deviation <= rounding
    t = mean / np.where(alike, np.nan, deviation / np.sqrt(np.maximum(n, 1)))
    sign_flip = np.where(mean > rounding, np.maximum(0.5**n, np.finfo(np.float64).tiny), 1.0)
    return np.where(alike, sign_flip, stats.t.sf(t, np.maximum(n - 1, 1)))


def split_halves(count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split `count` examples at random into those to choose heads on and those to confirm them on.

    Returns two sorted, disjoint index arrays that cover `range(count)`; an odd example goes to the second.
    Raises ValueError under 4, where a half has no spread.
    """
    if count < 4:
        raise ValueError(f"count: expected at least 4 examples, two for each half, got {count}; add examples")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _bootstrap(sums: Floats, counts: Floats, level: float, resamples: int, seed: int) -> Interval:
    """Bootstrap the ratio of sums to counts, both `[E, ...]`, over rows."""
    check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}")
    shape = sums.shape[1:]
    sums_EC, counts_EC = sums.reshape(len(sums), -1), counts.reshape(len(counts), -1)
    mean_C = _ratio(sums_EC.sum(axis=0), counts_EC.sum(axis=0))
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
        _ratio(weights_RE @ sums_EC, weights_RE @ counts_EC) for weights_RE in _resamples(len(sums_EC), resamples, seed)
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


def _ratio(numerator: Any, denominator: Any) -> Floats:
    """Divide; NaN where the denominator is 0."""
    return np.asarray(numerator / np.where(denominator != 0, denominator, np.nan), dtype=np.float64)


def _pairs(rows: list[Any]) -> list[Any]:
    """Add neighbours; an odd last row stays alone, to be filled up."""
    return [sum(rows[i + 1 : i + 2], rows[i]) for i in range(0, len(rows), 2)]


def _finite_or_nan(values: ArrayLike, name: str, empty: bool = False) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or (len(x) == 0 and not empty):
        raise ValueError(f"{name}: expected at least one example along the first axis, got shape {x.shape}")
    if np.isinf(x).any():
        raise ValueError(f"{name}: expected finite numbers or NaN, got infinity; mend what made them")
    return x


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


def _resolution(values: ArrayLike) -> float:
    dtype = np.asarray(values).dtype
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)
