"""Spread of differences over examples and over draws of a null, the test that follows, and its power.

Dimension key: D draws of the null, R rows (examples or clusters), L layers, N heads.
"""

from dataclasses import dataclass

import numpy as np

from ..statistics.base import Floats
from ..statistics.means import moments
from ..statistics.rows import Rows

TYPICAL = 0.9
"""The quantile over heads of the error over examples that stands for a head of unknown error."""


@dataclass(frozen=True, eq=False)
class Spread:
    """The error of each head's difference from the null, from its two sources.

    Attributes:
        difference: the mean difference, `[L,N]`.
        error: its standard error over examples, `[L,N]`.
        df: the degrees of freedom of that error.
        between: the standard deviation between the draws of the null; NaN for a single draw.
        draws: their number.
    """

    difference: Floats
    error: Floats
    df: Floats
    between: float
    draws: int

    @classmethod
    def of(cls, rows: Rows, null_D: Floats) -> "Spread":
        """Return the spread of differences by row, and of the draws' means."""
        difference, error, _ = moments(rows)
        known_D = null_D[~np.isnan(null_D)]
        between = float(known_D.std(ddof=1)) if len(known_D) > 1 else np.nan
        return cls(difference, error, np.maximum(rows.n - 1.0, 1.0), between, len(known_D))

    def p_values(self) -> Floats:
        """Return one-sided p of the hypothesis that a new draw of the null is as large, `[L,N]`; NaN for one draw."""
        from scipy import stats

        if np.isnan(self.between):
            return np.full(self.difference.shape, np.nan)
        total, df = self.total(self.error, self.df)
        return stats.t.sf(self.difference / np.where(total > 0, total, np.nan), df)

    def total(self, error: Floats, df: Floats) -> tuple[Floats, Floats]:
        """Return the standard error with that of draws, and Satterthwaite's degrees of freedom (1946)."""
        if np.isnan(self.between):
            return error, df
        draws = self.between**2 * (1 + 1 / self.draws)
        both = error**2 + draws
        scale = error**4 / df + draws**2 / (self.draws - 1)
        return np.sqrt(both), np.where(scale > 0, both**2 / np.where(scale > 0, scale, 1.0), df)


def power_at(difference: float, least: float, threshold: float, spread: Spread) -> float:
    """Return the probability that a head with this true difference is significant and at least `least`; 0 to 1.

    Its error over examples is taken to be large among those of the heads that were tested (the quantile TYPICAL).
    """
    from scipy import stats

    known = np.isfinite(spread.error)
    if not known.any() or np.isnan(difference):
        return np.nan
    error = np.quantile(spread.error[known], TYPICAL)
    total, df = spread.total(np.asarray(error), np.asarray(np.median(spread.df[known])))
    if total == 0:
        return float(difference >= least)
    significant = stats.nct.sf(stats.t.isf(threshold, df), df, difference / total)
    return float(min(significant, stats.norm.sf((least - difference) / total)))
