"""Scores of heads of random-weight models, and the probability that a head of another such model reaches a score.

For one function, the mean score of head i of draw d is μ + a[d] + b[d,i] + noise: models differ by a, the heads of one
model by b, and the examples give the noise. The standardised excess of any head over chance, of the nulls' as of the
examined model's, is

    z = (s − μ) / sqrt(σ² + e²)

with s the head's mean, e its own standard error, and σ² the variance of b without the noise. Few examples may show too
little noise, as where all values are 0, so e is at least the model's usual one. A null's head is compared with its own
draw's mean, and its σ leaves itself out. *Another* model is predicted: its head has the b of any known head, and its
shift has Student's distribution. The scale of the shift is sqrt(1 + 1/D) times the deviation between draws. D draws
estimate that deviation badly, so one pseudo-draw with the average ratio of a to b over the functions joins them. With a
single draw the shift is what the draw's own heads imply: models are then taken to be alike.

Beyond the largest tenth of the null's heads the probability is extrapolated by a generalised Pareto tail that is never
lighter than the exponential one. With k excesses its shape is ξ k / (k + 20) + 1 / k, where ξ is the estimate by
probability-weighted moments (Hosking & Wallis 1987); the term 1 / k makes the exponential tail exact for small k.

Dimension key: E examples, G clusters, D draws, I heads of all draws, M heads, F functions, U shifts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..statistics.base import Floats

OWN_TAIL = 200
"""Null heads from which on a function has a tail of its own; with fewer, all functions share theirs."""

_ROUNDING = 1e-6


class Means(NamedTuple):
    """Means over examples, `[M]`, and `deviations`, `[G,M]`: a random sign for each gives the noise of the mean."""

    mean: Floats
    deviations: Floats

    @property
    def variance(self) -> Floats:
        """The squared standard error, `[M]`; 0 where a single cluster shows no spread."""
        return (self.deviations**2).sum(axis=0)


def means(values: Floats, clusters: NDArray[np.intp] | None = None) -> Means:
    """Return the means of `[E,...]` over examples that are not NaN; NaN without one."""
    x_EM = values.reshape(len(values), -1)
    known_EM = ~np.isnan(x_EM)
    count_M = known_EM.sum(axis=0)
    mean_M = np.where(count_M > 0, np.where(known_EM, x_EM, 0).sum(axis=0) / np.maximum(count_M, 1), np.nan)
    away_EM, rows_EM = np.where(known_EM, x_EM - mean_M, 0), known_EM
    if clusters is not None:
        empty = np.zeros((clusters.max() + 1, x_EM.shape[1]))
        away_GM, rows_GM = empty.copy(), empty.copy()
        np.add.at(away_GM, clusters, away_EM)
        np.add.at(rows_GM, clusters, known_EM)
        away_EM, rows_EM = away_GM, rows_GM > 0
    groups_M = rows_EM.sum(axis=0)
    correction_M = np.sqrt(groups_M / np.maximum(groups_M - 1, 1))
    return Means(mean_M, away_EM * np.where(groups_M > 1, correction_M, 0) / np.maximum(count_M, 1))


class RandomHeads:
    """Heads of several random-weight models, in several functions.

    Attributes:
        draws, heads: their numbers; only draws of two heads or more show how heads differ.
        centre, spread: of each function, `[F]`: the mean over draws, and the deviation of a head's mean within a draw.
        chance: the standardised excess that a twentieth of another model's heads exceeds, `[F]`.
        excess: of heads of other models, `[U,I,F]`: known heads, each with U shifts.
    """

    def __init__(self, draws: Sequence[Sequence[Means]], quantile: float, rng: np.random.Generator):
        """Take the means by draw and function."""
        mean_DMF = [np.stack([function.mean for function in draw], axis=1) for draw in draws]
        noise_DMF = [np.stack([function.variance for function in draw], axis=1) for draw in draws]
        known = [~np.isnan(mean_MF).any(axis=1) for mean_MF in mean_DMF]
        mean_DMF = [mean_MF[rows] for mean_MF, rows in zip(mean_DMF, known, strict=True)]
        noise_DMF = [noise_MF[rows] for noise_MF, rows in zip(noise_DMF, known, strict=True)]
        if min(map(len, mean_DMF)) < 1 or max(map(len, mean_DMF)) < 2:
            raise ValueError("nulls: expected a known head in each draw, and a draw with two or more; give more heads")
        several = [number for number, mean_MF in enumerate(mean_DMF) if len(mean_MF) > 1]
        away_IF = np.concatenate(
            [(x - x.mean(axis=0)) * np.sqrt(len(x) / (len(x) - 1)) for x in (mean_DMF[number] for number in several)]
        )
        noise_IF = np.concatenate([noise_DMF[number] for number in several])
        usual_IF = np.concatenate(
            [np.broadcast_to(noise_DMF[number].mean(axis=0), noise_DMF[number].shape) for number in several]
        )
        model_DF = np.stack([mean_MF.mean(axis=0) for mean_MF in mean_DMF])
        self.draws, self.heads = len(draws), len(away_IF)
        self.centre = model_DF.mean(axis=0)
        within_F = (away_IF**2).mean(axis=0)
        self._true_F = np.maximum(within_F - noise_IF.mean(axis=0), 0)
        self._least_F = _ROUNDING * np.maximum(np.abs(self.centre), np.sqrt(within_F)) + 1e-150
        self.spread = np.sqrt(self._true_F)
        self._noise_F = noise_IF.mean(axis=0)
        self.deviation = np.maximum(np.sqrt(self._true_F + noise_IF.mean(axis=0)), self._least_F)
        others_IF = np.maximum((within_F * self.heads - away_IF**2) / (self.heads - 1), 1e-9 * within_F)
        scale_IF = np.sqrt(np.maximum(others_IF - noise_IF.mean(axis=0), 0) + np.maximum(noise_IF, usual_IF))
        scale_IF = np.maximum(scale_IF, self._least_F)
        excess_IF = away_IF / scale_IF
        shift_UF = self._shifts(model_DF - self.centre, within_F, rng)
        self.excess = excess_IF + shift_UF[:, None] / scale_IF
        self.chance = np.maximum(np.quantile(self.excess.reshape(-1, len(within_F)), quantile, axis=0), 0)
        pooled = self.heads < OWN_TAIL
        self._tails = [Tail(excess_IF if pooled else excess_I) for excess_I in excess_IF.T]

    def _shifts(self, away_DF: Floats, within_F: Floats, rng: np.random.Generator) -> Floats:
        """Draw shifts of other models, `[U,F]`, and set the scale and the degrees of freedom of the shift."""
        count = int(np.clip(200_000 / self.heads, 32, 400))
        if self.draws == 1:
            self._shift_F, self._freedom = np.sqrt(2 * within_F / self.heads), self.heads - 1
            return rng.standard_t(self._freedom, (count, len(within_F))) * self._shift_F
        variance_F = (away_DF**2).sum(axis=0) / (self.draws - 1)
        usual_F = (variance_F / np.maximum(within_F, self._least_F**2)).mean() * within_F
        shrunk_F = ((self.draws - 1) * variance_F + usual_F) / self.draws
        self._shift_F, self._freedom = np.sqrt(shrunk_F * (1 + 1 / self.draws)), self.draws
        # Combinations of the draws' own deviations keep the correlation between functions.
        mixed_UF = rng.standard_normal((count, self.draws)) @ away_DF / np.sqrt(self.draws - 1)
        mixed_UF *= self._shift_F / np.where(variance_F > 0, np.sqrt(variance_F), 1)
        return mixed_UF / np.sqrt(rng.chisquare(self._freedom, (count, 1)) / self._freedom)

    def scale(self, variance_MF: Floats) -> Floats:
        """Return the deviation of heads' means by chance, `[M,F]`, given their squared standard errors."""
        usual_F = np.minimum(variance_MF.mean(axis=0), self._noise_F)
        return np.maximum(np.sqrt(self._true_F + np.maximum(variance_MF, usual_F)), self._least_F)

    def p_values(self, excess_MF: Floats, scale_MF: Floats) -> Floats:
        """Return the probability that a head of another random-weight model reaches each excess, `[M,F]`."""
        from scipy import stats

        logits = np.linspace(-14, 14, 281)  # dense in both tails of the shift
        quantiles = stats.logistic.cdf(logits)
        weights = quantiles * (1 - quantiles)
        student_U = stats.t.ppf(quantiles, self._freedom)
        p_MF = np.ones_like(excess_MF)
        for number, tail in enumerate(self._tails):
            shift_MU = student_U * (self._shift_F[number] / scale_MF[:, number, None])
            p_MF[:, number] = tail.reaching(excess_MF[:, number, None] - shift_MU) @ weights / weights.sum()
        return p_MF


class Tail:
    """The probability of reaching a value: the rank among known values, extrapolated in the upper tail.

    Args:
        values: known values, of any shape.
        count: number of independent values, where these are fewer.
    """

    def __init__(self, values: Floats, count: int | None = None):
        self._sorted = np.sort(values, axis=None)
        self._count = self._sorted.size if count is None else count
        self._excesses = int(max(np.ceil(self._count / 10), min(np.ceil(self._count / 2), 5)))
        start = int(np.ceil(self._sorted.size * (1 - self._excesses / self._count))) - 1
        self._from = self._sorted[max(start, 0)]
        beyond = self._sorted[max(start, 0) + 1 :] - self._from
        mean = max(beyond.mean() if beyond.size else 0.0, 1e-300)
        shape = _shape(beyond) * self._excesses / (self._excesses + 20)
        self._shape = max(shape + 1 / self._excesses, 0)
        self._scale = mean * (1 - shape)

    def reaching(self, values: Floats) -> Floats:
        """Return the probability of reaching each value; its least value within the known ones is 1 / (1 + count)."""
        size, count = self._sorted.size, self._count
        share = 1 - np.searchsorted(self._sorted, values - 1e-12) / size
        beyond = np.maximum(values - self._from, 0) / self._scale
        far = np.exp(-beyond) if self._shape < 1e-6 else (1 + self._shape * beyond) ** (-1 / self._shape)
        # Values known from simulated shifts may lie further out than the tail reaches.
        far = np.maximum((1 + self._excesses) / (1 + count) * far, share if size > count else 0)
        return np.where(values > self._from, far, (1 + count * share) / (1 + count))


def _shape(beyond: Floats) -> float:
    """Return the shape of the generalised Pareto distribution of sorted excesses, between −1/2 and 9/10."""
    count = beyond.size
    if count < 2 or beyond.sum() == 0:
        return 0.0
    mean = beyond.mean()
    weighted = (beyond * (count - np.arange(1, count + 1)) / (count - 1)).mean()
    return float(np.clip(2 - mean / max(mean - 2 * weighted, 1e-12 * mean), -0.5, 0.9))
