"""Means with confidence intervals, tests, and corrections for multiple testing.

Everything is NumPy in float64, independent of models. The leading axis is always the examples. NaN marks a missing
value and is left out; infinity is refused.
"""

from .analytic import Moments, t_mean, wilson
from .base import Interval, check_level
from .bootstrap import GroupedRows, bootstrap_mean, bootstrap_ratio
from .seeds import SeedEffect, seed_effect
from .testing import false_discovery, paired_p_values, rank_correlation, split_halves
from .variance import analysis_of_variance

__all__ = [
    "GroupedRows",
    "Interval",
    "Moments",
    "SeedEffect",
    "analysis_of_variance",
    "bootstrap_mean",
    "bootstrap_ratio",
    "check_level",
    "false_discovery",
    "paired_p_values",
    "rank_correlation",
    "seed_effect",
    "split_halves",
    "t_mean",
    "wilson",
]
