"""Means with confidence intervals, tests, and corrections for multiple testing.

Everything is NumPy in float64, independent of models. The leading axis is always the examples. NaN marks a missing
value and is left out; infinity is refused.
"""

from ..checks import check_level
from .analytic import Moments, t_mean, wilson
from .base import Interval
from .grouped_rows import GroupedRows
from .means import jackknife_interval, mean_interval, ratio_interval
from .partial import partial_rank_correlation
from .rows import Rows, rows_of
from .seeds import SeedEffect, seed_effect
from .testing import false_discovery, mean_p_values, paired_p_values, rank_correlation, split_halves
from .variance import analysis_of_variance

__all__ = [
    "GroupedRows",
    "Interval",
    "Moments",
    "Rows",
    "SeedEffect",
    "analysis_of_variance",
    "check_level",
    "false_discovery",
    "jackknife_interval",
    "mean_interval",
    "mean_p_values",
    "paired_p_values",
    "partial_rank_correlation",
    "rank_correlation",
    "ratio_interval",
    "rows_of",
    "seed_effect",
    "split_halves",
    "t_mean",
    "wilson",
]
