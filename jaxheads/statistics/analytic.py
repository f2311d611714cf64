"""Intervals in closed form, and moments of a stream in constant memory.

NumPy in float64; the leading axis is always the examples. NaN is left out, infinity is refused.

Dimension key: `E` examples.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from ..checks import check_level
from .base import Floats, Interval, finite_or_nan, ratio
from .means import wilson_of


@checked()
def t_mean(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Compute the mean over examples with Student's interval, `[E,...]` to `[...]`.

    The interval is exact for normal examples, and approximate for many examples of any distribution. A cell with fewer
    than two examples has no interval (NaN).

    Raises:
        ValueError: for no rows, infinity, or a level out of range.
    """
    moments = Moments()
    moments.add(finite_or_nan(values, "values"))
    return moments.interval(level=level)


@checked()
def wilson(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Compute a share with Wilson's score interval (1927), from values that are 0 or 1, `[E,...]` to `[...]`.

    The interval stays inside 0..1, and is wide enough for 0 in n, for which Student's has length 0.

    Raises:
        ValueError: for other values, no rows, or a level out of range.
    """
    check_level(level)
    x = finite_or_nan(values, "values")
    known = ~np.isnan(x)
    if not np.isin(x[known], (0.0, 1.0)).all():
        raise ValueError(f"values: expected 0 or 1 (a share is their mean), got {x[known & (x != 0) & (x != 1)][0]}")
    n = known.sum(axis=0)
    return wilson_of(ratio(np.where(known, x, 0.0).sum(axis=0), n), n, n, level)


class Moments:
    """Count, mean, variance, least and most of each cell of a stream, in the memory of one example (Welford 1962).

    Two of them merge into the moments of both streams (Chan et al. 1979), so processes can share a stream.
    `GroupedRows` also keeps the rows that a skew-corrected interval needs.
    """

    def __init__(self) -> None:
        self.count: NDArray[np.int64] = np.zeros((), np.int64)
        self._mean: Floats = np.zeros(())
        self._squares: Floats = np.zeros(())
        self._least: Floats = np.full((), np.inf)
        self._most: Floats = np.full((), -np.inf)

    @checked()
    def add(self, values: ArrayLike) -> None:
        """Add examples, `[E,...]`; E may be 0.

        Raises:
            ValueError: for infinity or another shape.
        """
        x = finite_or_nan(values, "values", empty=True)
        known = ~np.isnan(x)
        new = Moments()
        new.count = known.sum(axis=0)
        new._mean = np.where(known, x, 0.0).sum(axis=0) / np.maximum(new.count, 1)
        new._squares = np.where(known, (x - new._mean) ** 2, 0.0).sum(axis=0)
        new._least = np.where(known, x, np.inf).min(axis=0, initial=np.inf)
        new._most = np.where(known, x, -np.inf).max(axis=0, initial=-np.inf)
        self.merge(new)

    @checked()
    def merge(self, other: "Moments") -> None:
        """Add the examples of another.

        Raises:
            ValueError: for another shape.
        """
        if self.count.shape != other.count.shape and self.count.sum() and other.count.sum():
            raise ValueError(f"expected cells of shape {list(self.count.shape)}, got {list(other.count.shape)}")
        total = self.count + other.count
        difference, share = other._mean - self._mean, other.count / np.maximum(total, 1)
        # Squares about each mean alone, and about the common mean those of the means themselves.
        self._squares = self._squares + other._squares + difference**2 * self.count * share
        self._mean = self._mean + difference * share
        self._least, self._most = np.minimum(self._least, other._least), np.maximum(self._most, other._most)
        self.count = total

    @property
    def mean(self) -> Floats:
        """The mean of each cell; NaN without a value."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def variance(self) -> Floats:
        """The variance over examples, with denominator n − 1; NaN with fewer than two."""
        return np.where(self.count > 1, self._squares / np.maximum(self.count - 1, 1), np.nan)

    @property
    def least(self) -> Floats:
        """The smallest value of each cell; NaN without a value."""
        return np.where(self.count > 0, self._least, np.nan)

    @property
    def most(self) -> Floats:
        """The largest value of each cell; NaN without a value."""
        return np.where(self.count > 0, self._most, np.nan)

    @checked()
    def interval(self, *, level: float = 0.95) -> Interval:
        """Return the mean with Student's interval."""
        from scipy import stats

        check_level(level)
        quantile = stats.t.ppf((1 + level) / 2, np.maximum(self.count - 1, 1))
        half = quantile * np.sqrt(self.variance / np.maximum(self.count, 1))
        return Interval(self.mean, self.mean - half, self.mean + half, self.count)
