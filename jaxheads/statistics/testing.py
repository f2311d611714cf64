"""Tests, and corrections for having tested many heads.

NumPy in float64; the leading axis is always the examples.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from .base import Floats, finite_or_nan, ratio
from .means import upper_p_values
from .rows import cluster_codes, rows_of


@checked()
def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's rank correlation over the cells known in both; None if either is constant."""
    from scipy import stats

    if first.shape != second.shape:
        raise ValueError(f"second must have the shape of first {first.shape}, got {second.shape}")
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any() or np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(first[known]), stats.rankdata(second[known]))[0, 1])


@checked()
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


@checked()
def paired_p_values(scores: ArrayLike, null: ArrayLike, *, clusters: ArrayLike | None = None) -> Floats:
    """Test for each cell whether `scores` exceed `null` on the same examples (one-sided paired test).

    Both are `[E,...]`; the result is `[...]`. A pair with a NaN on either side is left out; a cell with fewer than two
    pairs is not tested (NaN). p is the larger of Student's and its skew-corrected form (see `means`), so that it agrees
    with `mean_interval` of the differences.

    If the n differences are all equal, up to the rounding of the inputs' dtype, a t statistic is undefined. The exact
    sign-flip test replaces it: equal and positive gives 2^-n, the least p of any test of n examples that assumes no
    distribution; equal and zero or negative gives 1. So 4 equal differences are no evidence, 20 are.

    Args:
        clusters: labels `[E]` of groups of examples that depend on each other; n then counts the groups.

    Raises:
        ValueError: for fewer than 2 examples, different shapes, infinity, or labels that don't fit.
    """
    a, b = finite_or_nan(scores, "scores"), finite_or_nan(null, "null")
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"expected scores and null of one shape with at least 2 examples leading, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    difference = a - b
    rows = rows_of(difference, clusters=clusters)
    means_R, mean = ratio(rows.sums, rows.counts), ratio(rows.sums.sum(axis=0), rows.counts.sum(axis=0))
    deviation = np.where(rows.n > 0, np.fmax.reduce(np.abs(means_R - mean), axis=0, initial=0.0), np.nan)
    magnitude = np.where(np.isnan(difference), 0.0, np.maximum(np.abs(a), np.abs(b))).max(axis=0)
    rounding = 4 * max(_resolution(scores), _resolution(null)) * magnitude
    sign_flip = np.where(mean > rounding, np.maximum(0.5**rows.n, np.finfo(np.float64).tiny), 1.0)
    p = np.where(deviation <= rounding, sign_flip, upper_p_values(rows))
    return np.where(rows.n > 1, p, np.nan)


@checked()
def mean_p_values(values: ArrayLike, *, clusters: ArrayLike | None = None) -> Floats:
    """Test for each cell whether the mean of `values` `[E,...]` is 0 (two-sided), `[...]`; agrees with `mean_interval`.

    NaN is left out; a cell with fewer than two values is not tested (NaN).

    Raises:
        ValueError: for no examples, infinity, or labels that don't fit.
    """
    x = finite_or_nan(values, "values")
    if len(x) < 2:
        return np.full(x.shape[1:], np.nan)
    zero = np.zeros_like(x)
    sides = (paired_p_values(a, b, clusters=clusters) for a, b in ((x, zero), (zero, x)))
    return np.minimum(1.0, 2 * np.minimum(*sides))


@checked()
def split_halves(count: int, seed: int, clusters: ArrayLike | None = None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split `count` examples at random into a half to choose heads on and a half to confirm them on.

    Args:
        clusters: labels `[count]` of groups of examples that depend on each other. Each group goes to one half as a
            whole, and the halves have equally many groups.

    Returns:
        Two sorted, disjoint index arrays that cover `range(count)`; an odd example (or group) goes to the second.

    Raises:
        ValueError: for fewer than 4 examples or groups: a half needs 2 to have a spread.
    """
    codes = np.arange(count) if clusters is None else cluster_codes(clusters, count)
    groups = int(codes.max(initial=-1)) + 1
    if groups < 4:
        unit = "examples" if clusters is None else "clusters"
        raise ValueError(f"count: expected at least 4 {unit}, two for each half, got {groups}; add {unit}")
    order = np.random.default_rng(seed).permutation(groups)
    first = np.isin(codes, order[: groups // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def _resolution(values: ArrayLike) -> float:
    dtype = np.asarray(values).dtype
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)
