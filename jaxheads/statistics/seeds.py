"""Decomposition of a number's variance into seeds and examples.

Dimension key: `A` seeds, `E` examples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from ..checks import check_level
from .base import Floats, finite_or_nan


class SeedEffect(NamedTuple):
    """Mean over seeds and components of variance, for each cell.

    Attributes:
        mean, low, high: the mean over seeds with its interval.
        between: the variance of the seeds' means beyond that due to examples.
        within: the variance of examples for one seed.
        share: between / (between + within), the intraclass correlation, from 0 to 1.
        p: of the hypothesis that seeds do not differ.
    """

    mean: Floats
    low: Floats
    high: Floats
    between: Floats
    within: Floats
    share: Floats
    p: Floats


@checked()
def seed_effect(values: ArrayLike, *, level: float = 0.95) -> SeedEffect:
    """Analyse `values` `[A,E,...]` by one-way random-effects analysis of variance (Searle et al. 1992, chapter 3).

    The interval is Student's over the A means of seeds: more examples make no more seeds. Heads of models trained from
    different seeds do not correspond, so pass numbers that do: the best head's score, a layer's, a sorted row.

    Raises:
        ValueError: for fewer than 2 seeds or examples, NaN, infinity, or a level out of range.
    """
    from scipy import stats

    check_level(level)
    x = finite_or_nan(values, "values")
    if x.ndim < 2 or x.shape[0] < 2 or x.shape[1] < 2 or np.isnan(x).any():
        raise ValueError(
            f"values: expected [seeds, examples, ...] without NaN, at least 2 of each, got shape {list(x.shape)}"
            f"{' with NaN' if np.isnan(x).any() else ''}"
        )
    A, E = x.shape[:2]
    means = x.mean(axis=1)
    among = E * means.var(axis=0, ddof=1)
    within = x.var(axis=1, ddof=1).mean(axis=0)
    between = np.maximum((among - within) / E, 0.0)
    total = between + within
    half = stats.t.ppf((1 + level) / 2, A - 1) * means.std(axis=0, ddof=1) / np.sqrt(A)
    mean = means.mean(axis=0)
    share = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    ratio = np.divide(among, within, out=np.full_like(total, np.inf), where=within > 0)
    p = np.where(among > 0, stats.f.sf(ratio, A - 1, A * (E - 1)), 1.0)
    return SeedEffect(mean, mean - half, mean + half, between, within, share, p)
