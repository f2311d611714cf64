"""Tests, and corrections for having tested many heads.

NumPy in float64; the leading axis is always the examples.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .base import Floats, finite_or_nan, ratio


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's rank correlation over the cells known in both; None if either is constant."""
    from scipy import stats

    known = np.isfinite(first) & np.isfinite(second)
    if not known.any() or np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(first[known]), stats.rankdata(second[known]))[0, 1])


def false_discovery(p_values: ArrayLike) -> Floats:
    """Turn p-values of many heads into q-values, in the same shape (Benjamini & Hochberg 1995).

    Calling every head with q <= a special keeps the expected share of false calls at or under a, for independent or
    positively dependent tests. NaN (not tested) stays NaN and is not counted.

    Raises:
        ValueError: for numbers outside 0..1.
    """
    from scipy import stats

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
    """Test for each cell whether `scores` exceed `null` on the same examples (one-sided paired t-test).

    Both are `[E,...]`; the result is `[...]`. A pair with a NaN on either side is left out; a cell with fewer than two
    pairs is not tested (NaN).

    If the n differences are all equal, up to the rounding of the inputs' dtype, a t statistic is undefined. The exact
    sign-flip test replaces it: equal and positive gives 2^-n, the least p of any test of n examples that assumes no
    distribution; equal and zero or negative gives 1. So 4 equal differences are no evidence, 20 are.

    Raises:
        ValueError: for fewer than 2 examples, different shapes, or infinity.
    """
    from scipy import stats

    a, b = finite_or_nan(scores, "scores"), finite_or_nan(null, "null")
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"expected scores and null of one shape with at least 2 examples leading, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    difference = a - b
    n = (~np.isnan(difference)).sum(axis=0)
    mean = ratio(np.nansum(difference, axis=0), n)
    deviation = np.sqrt(ratio(np.nansum((difference - mean) ** 2, axis=0), np.maximum(n - 1, 0)))
    magnitude = np.where(np.isnan(difference), 0.0, np.maximum(np.abs(a), np.abs(b))).max(axis=0)
    rounding = 4 * max(_resolution(scores), _resolution(null)) * magnitude
    all_equal = deviation <= rounding
    t = mean / np.where(all_equal, np.nan, deviation / np.sqrt(np.maximum(n, 1)))
    sign_flip = np.where(mean > rounding, np.maximum(0.5**n, np.finfo(np.float64).tiny), 1.0)
    return np.where(all_equal, sign_flip, stats.t.sf(t, np.maximum(n - 1, 1)))


def split_halves(count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split `count` examples at random into a half to choose heads on and a half to confirm them on.

    Returns:
        Two sorted, disjoint index arrays that cover `range(count)`; an odd example goes to the second.

    Raises:
        ValueError: for fewer than 4 examples: a half needs 2 to have a spread.
    """
    if count < 4:
        raise ValueError(f"count: expected at least 4 examples, two for each half, got {count}; add examples")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _resolution(values: ArrayLike) -> float:
    dtype = np.asarray(values).dtype
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)
