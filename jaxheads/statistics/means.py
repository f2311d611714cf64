"""Intervals of means, of ratios of means, and of functions of means, that cover at few and skewed examples.

The interval of a mean is Student's, widened on either side to the skew-corrected one where that reaches further. The
latter transforms the t statistic by the cubic of Hall (1992, "On the removal of skewness by transformation", JRSS B 54,
equation 2.3), here with quantiles of Student's t in place of the normal law. With residuals d of R rows and
r = Σ d³ / (Σ d²)^1.5, which is the skewness over √R,

    g(t) = t + r t² / 3 + r² t³ / 27 + r / 6        interval: all μ with |g((mean − μ) / se)| ≤ q

Student's alone covers too little for skewed laws, the cubic alone for heavy tails; `experiments/coverage.py` measures
both, and others. Rows may have different numbers of values (clusters): residuals and their leverage are those of a
ratio estimator (CR2 of Bell & McCaffrey 2002), and the degrees of freedom are Kish's effective number of rows less 1.

No interval knows of values that never came: a law whose mean rests on rare large values is covered too seldom. Of 3
to 6 skewed examples the interval is several times as long as Student's, to one side.

Dimension key: `E` examples, `R` rows (examples or clusters).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from ..checks import check_level
from .base import Floats, Interval, finite_or_nan, ratio
from .rows import Rows, rows_of

Range = tuple[ArrayLike, ArrayLike] | NDArray[Any]
"""The least and the largest value of a mean, numbers or arrays `[...]`."""


@checked()
def mean_interval(
    values: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    within: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Interval:
    """Compute the mean over examples with its skew-corrected interval, `[E,...]` to `[...]`.

    Where all values of all cells are 0 or 1, their mean is a share and has Wilson's interval. A cell without a value
    has NaN, a cell with a single example (or cluster) has a mean and no bounds. Always `low <= mean <= high`.

    Args:
        values: `[E,...]`, NaN where missing.
        counts: the number of examples whose mean each row is, `[E]` or `[E,...]`; rows are weighted by it.
        clusters: labels `[E]` of groups of examples that depend on each other (one document, one template). The
            interval is then one over clusters, and `n` counts these.
        within: the least and the largest value that the mean can have: no bound leaves them. A range other than 0 to 1
            also says that values of 0 and 1 are no shares.

    Raises:
        ValueError: for no rows, infinity, negative counts, labels that don't fit, values out of `within`, or a level
            out of range.
    """
    check_level(level)
    if counts is None:
        # A mean weighted by counts may have a range that single rows leave.
        _check_within(values, within)
    rows = rows_of(values, counts, clusters)
    x = np.asarray(values, dtype=np.float64)
    share = counts is None and within in (None, (0, 1)) and bool(np.isin(x[~np.isnan(x)], (0.0, 1.0)).all())
    return interval_of(rows, level=level, within=within, share=share, single=clusters is None)


@checked()
def ratio_interval(
    values: ArrayLike, whole: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Compute the mean of `values` `[E,...]` over the mean of `whole` `[E]`, with Fieller's interval (1954).

    It serves shares of an estimated quantity, such as one head's patching effect as a share of the effect of patching
    everything. An example whose value or whole is missing is left out of both means. A whole whose mean is 0 gives NaN.
    Where the whole can't be told from 0, the interval has no ends (NaN), unless all examples have the same share.

    Raises:
        ValueError: for no rows, infinity, a whole of another length, labels that don't fit, or a level out of range.
    """
    from scipy import stats

    check_level(level)
    x, w = finite_or_nan(values, "values"), finite_or_nan(whole, "whole")
    if w.shape != x.shape[:1]:
        raise ValueError(f"whole: expected one number for each of {len(x)} examples, got shape {list(w.shape)}")
    w = np.broadcast_to(w.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    known = ~np.isnan(x) & ~np.isnan(w)
    parts, wholes = (rows_of(np.where(known, each, np.nan), clusters=clusters) for each in (x, w))
    q = stats.t.ppf((1 + level) / 2, np.maximum(_effective(parts) - 1, 1))
    part, d_R = _residuals(parts)
    total, e_R = _residuals(wholes)
    d_R, e_R = (_levered(residuals, parts) for residuals in (d_R, e_R))
    size = np.maximum(parts.counts.sum(axis=0), 1) ** 2
    # All θ for which |mean(values − θ whole)| is within q standard errors: a quadratic in θ.
    a = total**2 - q**2 * (e_R**2).sum(axis=0) / size
    b = part * total - q**2 * (d_R * e_R).sum(axis=0) / size
    c = part**2 - q**2 * (d_R**2).sum(axis=0) / size
    bounded = (a > 0) & (parts.n > 1)
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    mean, safe = ratio(part, total), np.where(bounded, a, np.nan)
    low, high = np.minimum((b - root) / safe, mean), np.maximum((b + root) / safe, mean)
    # Where every example has the same share, the share is known, however little the whole is.
    rest, size = np.abs(d_R - mean * e_R).max(axis=0), np.abs(d_R).max(axis=0)
    exact = (parts.n > 1) & (rest <= 1e-12 * size)
    return Interval(mean, np.where(exact, mean, low), np.where(exact, mean, high), parts.n)


@checked()
def jackknife_interval(
    statistic: Callable[[Floats], ArrayLike],
    rows: Rows,
    *,
    within: Range | None = None,
    level: float = 0.95,
) -> Interval:
    """Compute a smooth function of means with an interval of its jackknife pseudo-values (Busing et al. 1999).

    The function is computed once for all rows and once without each of them. The interval is that of a mean of
    pseudo-values, with rows weighted by their number of values; of the mean itself, it is `mean_interval`'s.

    Args:
        statistic: from the mean row `[...]` to numbers of any shape.
        rows: as `rows_of` or `GroupedRows.grouped` gives them; all cells of a row have the same number of values.
    """
    check_level(level)
    sums, counts = rows.sums.sum(axis=0), rows.counts.sum(axis=0)
    value = np.asarray(statistic(ratio(sums, counts)), np.float64)
    R = len(rows.sums)
    if R < 2:
        nothing = np.full(value.shape, np.nan)
        return Interval(value, nothing, nothing, np.full(value.shape, R))
    weights_R = rows.counts.reshape(R, -1)[:, 0]
    total, pseudo = weights_R.sum(), np.empty((R, *value.shape))
    for row in range(R):
        without = np.asarray(statistic(ratio(sums - rows.sums[row], counts - rows.counts[row])), np.float64)
        pseudo[row] = value + (total - weights_R[row]) / weights_R[row] * (value - without)
    mean, low, high, n = interval_of(
        Rows(pseudo * _column(weights_R, pseudo), _column(weights_R, pseudo) + 0 * pseudo), level=level
    )
    # Pseudo-values average to the statistic less its bias: the interval keeps its length about the statistic.
    low, high = _clipped(value + low - mean, value + high - mean, value, within)
    return Interval(value, low, high, n)


def upper_p_values(rows: Rows) -> Floats:
    """Return p of the hypothesis that the mean is 0 or less, against that it is more: the larger of two tests.

    One is Student's, the other its cubic transform of the module's docstring: p < .025 exactly where the interval of
    95 % lies above 0. NaN with fewer than two rows, and where all rows are equal.
    """
    from scipy import stats

    mean, error, r = moments(rows)
    df = np.maximum(_effective(rows) - 1, 1)
    t = mean / np.where(error > 0, error, np.nan)
    return np.maximum(stats.t.sf(t, df), stats.t.sf(_cubic(t, r), df))


def interval_of(
    rows: Rows,
    *,
    level: float,
    within: Range | None = None,
    share: bool = False,
    single: bool = True,
) -> Interval:
    """Return the interval of the mean of rows.

    Args:
        share: whether all values are 0 or 1.
        single: whether rows are single examples, so that shares have Wilson's interval; for clusters it is used only
            where all values are equal, with the number of clusters.
    """
    from scipy import stats

    check_level(level)
    mean, error, r = moments(rows)
    if share and single:
        return wilson_of(mean, rows.counts.sum(axis=0), rows.n, level)
    q = stats.t.ppf((1 + level) / 2, np.maximum(_effective(rows) - 1, 1))
    # The cubic turns round: a large right tail moves the interval up.
    low = mean - np.maximum(q, _inverse_cubic(q, r)) * error
    high = mean - np.minimum(-q, _inverse_cubic(-q, r)) * error
    if share:
        equal = wilson_of(mean, rows.n.astype(np.float64), rows.n, level)
        low, high = (np.where(error > 0, bound, end) for bound, end in ((low, equal.low), (high, equal.high)))
        within = (0, 1)
    return Interval(mean, *_clipped(low, high, mean, within), rows.n)


def wilson_of(share: Floats, trials: Floats, n: Any, level: float) -> Interval:
    """Return Wilson's score interval (1927) of a share among so many trials; NaN without one."""
    from scipy import stats

    z, safe = stats.norm.ppf((1 + level) / 2), np.maximum(trials, 1)
    centre = (share + z**2 / (2 * safe)) / (1 + z**2 / safe)
    half = z / (1 + z**2 / safe) * np.sqrt(share * (1 - share) / safe + z**2 / (4 * safe**2))
    return Interval(share, *_clipped(centre - half, centre + half, share, (0, 1)), np.asarray(n))


def moments(rows: Rows) -> tuple[Floats, Floats, Floats]:
    """Return the mean, its standard error (NaN for fewer than two rows), and r of the module's docstring."""
    mean, residuals_R = _residuals(rows)
    total = np.maximum(rows.counts.sum(axis=0), np.finfo(float).tiny)
    error = np.sqrt((_levered(residuals_R, rows) ** 2).sum(axis=0)) / total
    squares = (residuals_R**2).sum(axis=0)
    r = np.where(squares > 0, (residuals_R**3).sum(axis=0) / np.where(squares > 0, squares, 1.0) ** 1.5, 0.0)
    return mean, np.where(rows.n > 1, error, np.nan), r


def _residuals(rows: Rows) -> tuple[Floats, Floats]:
    mean = ratio(rows.sums.sum(axis=0), rows.counts.sum(axis=0))
    return mean, rows.sums - np.where(np.isnan(mean), 0.0, mean) * rows.counts


def _levered(residuals_R: Floats, rows: Rows) -> Floats:
    """Return residuals over the square root of 1 less their leverage; a row that is all there is has none."""
    share_R = rows.counts / np.maximum(rows.counts.sum(axis=0), np.finfo(float).tiny)
    return residuals_R / np.sqrt(np.where(share_R < 1, 1 - share_R, 1.0))


def _effective(rows: Rows) -> Floats:
    """Return Kish's effective number of rows, (Σ c)² / Σ c²; the number of rows where they are equal."""
    squares = (rows.counts**2).sum(axis=0)
    return rows.counts.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0)


def _cubic(t: Floats, r: Floats) -> Floats:
    return t + r * t**2 / 3 + r**2 * t**3 / 27 + r / 6


def _inverse_cubic(z: Floats, r: Floats) -> Floats:
    flat = np.abs(r) < 1e-6
    safe = np.where(flat, 1.0, r)
    return np.where(flat, z, 3 / safe * (np.cbrt(1 + safe * (z - safe / 6)) - 1))


def _clipped(low: Floats, high: Floats, mean: Floats, within: Range | None) -> tuple[Floats, Floats]:
    """Return bounds that hold the mean and stay in the range."""
    if within is not None:
        missing = np.isnan(low)
        low, high = (np.where(missing, np.nan, end) for end in (np.fmax(low, within[0]), np.fmin(high, within[1])))
    return np.minimum(low, mean), np.maximum(high, mean)


def _column(weights_R: Floats, values: Floats) -> Floats:
    return weights_R.reshape(-1, *[1] * (values.ndim - 1))


def _check_within(values: ArrayLike, within: tuple[float, float] | None) -> None:
    if within is None:
        return
    x = np.asarray(values, np.float64)
    slack = 1e-4 * max([1.0, *(abs(bound) for bound in within if np.isfinite(bound))])
    outside = x[(x < within[0] - slack) | (x > within[1] + slack)]
    if outside.size:
        raise ValueError(f"within: expected values from {within[0]} to {within[1]}, got {outside[0]:.6g}")
