"""Intervals in closed form, and moments of a stream that need no memory.

NumPy in float64; the leading axis is always the examples. NaN is left out, infinity is refused.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .base import Floats, Interval, check_level, finite_or_nan, ratio


def t_mean(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's interval of the mean over examples, `[E,...]` to `[...]`: exact where examples are normal, and for
    many examples whatever they are. A cell with fewer than two examples has no interval (NaN).

    Raises ValueError for no rows, infinity, or a level out of range.
    """
    moments = Moments()
    moments.add(finite_or_nan(values, "values"))
    return moments.interval(level=level)


def wilson(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Wilson's score interval (1927) of a share, from values that are 0 or 1, `[E,...]` to `[...]`. It keeps inside
    0..1 and says something of 0 in n, where a bootstrap sees no doubt at all.

    Raises ValueError for other values, and as `t_mean` does.
    """
    check_level(level)
    x = finite_or_nan(values, "values")
    says = ~np.isnan(x)
    if not np.isin(x[says], (0.0, 1.0)).all():
        raise ValueError(f"values: expected 0 or 1 (a share is their mean), got {x[says & (x != 0) & (x != 1)][0]}")
    n, z = says.sum(axis=0), stats.norm.ppf((1 + level) / 2)
    share = ratio(np.where(says, x, 0.0).sum(axis=0), n)
    safe = np.maximum(n, 1)
    centre = (share + z**2 / (2 * safe)) / (1 + z**2 / safe)
    half = z / (1 + z**2 / safe) * np.sqrt(share * (1 - share) / safe + z**2 / (4 * safe**2))
    return Interval(share, np.minimum(centre - half, share), np.maximum(centre + half, share))


class Moments:
    """Count, mean, variance, least and most of each cell of a stream (Welford 1962), in the memory of one example;
    two of them merge into what one pass over both would have found (Chan et al. 1979).

    So 10 million examples, on any number of processes, need no memory. `GroupedRows` also keeps what a bootstrap needs.
    """

    def __init__(self) -> None:
        self.count: NDArray[np.int64] = np.zeros((), np.int64)
        self._mean: Floats = np.zeros(())
        self._squares: Floats = np.zeros(())
        self._least: Floats = np.full((), np.inf)
        self._most: Floats = np.full((), -np.inf)

    def add(self, values: ArrayLike) -> None:
        """Take in examples, `[E,...]`, E may be 0. Raises ValueError for infinity or another shape."""
        x = finite_or_nan(values, "values", empty=True)
        says = ~np.isnan(x)
        one = Moments()
        one.count = says.sum(axis=0)
        one._mean = np.where(says, x, 0.0).sum(axis=0) / np.maximum(one.count, 1)
        one._squares = np.where(says, (x - one._mean) ** 2, 0.0).sum(axis=0)
        one._least = np.where(says, x, np.inf).min(axis=0, initial=np.inf)
        one._most = np.where(says, x, -np.inf).max(axis=0, initial=-np.inf)
        self.merge(one)

    def merge(self, other: Self | "Moments") -> None:
        """Take in what another has seen. Raises ValueError for another shape."""
        if self.count.shape != other.count.shape and self.count.sum() and other.count.sum():
            raise ValueError(f"expected cells of shape {list(self.count.shape)}, got {list(other.count.shape)}")
        total = self.count + other.count
        apart, share = other._mean - self._mean, other.count / np.maximum(total, 1)
        self._squares = self._squares + other._squares + apart**2 * self.count * share
        self._mean = self._mean + apart * share
        self._least, self._most = np.minimum(self._least, other._least), np.maximum(self._most, other._most)
        self.count = total

    @property
    def mean(self) -> Floats:
        """NaN where no example says anything."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def variance(self) -> Floats:
        """Of examples, n − 1 below; NaN with fewer than two."""
        return np.where(self.count > 1, self._squares / np.maximum(self.count - 1, 1), np.nan)

    @property
    def least(self) -> Floats:
        """The smallest value; NaN where there is none."""
        return np.where(self.count > 0, self._least, np.nan)

    @property
    def most(self) -> Floats:
        """The largest value; NaN where there is none."""
        return np.where(self.count > 0, self._most, np.nan)

    def interval(self, *, level: float = 0.95) -> Interval:
        """The mean with Student's interval."""
        check_level(level)
        half = stats.t.ppf((1 + level) / 2, np.maximum(self.count - 1, 1)) * np.sqrt(
            self.variance / np.maximum(self.count, 1)
        )
        return Interval(self.mean, self.mean - half, self.mean + half)
