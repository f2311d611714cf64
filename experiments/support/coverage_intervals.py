"""Candidates for the interval of a mean, for `experiments.coverage`: each from samples `[n,S]` to bounds `[S]`."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxheads.statistics import mean_interval, t_mean

RESAMPLES = 999
UNBOUNDED = (-np.inf, np.inf)

Bounds = tuple[np.ndarray, np.ndarray]


def percentile(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return the bootstrap's percentiles (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(_resampled(samples, rng)[0], [0.025, 0.975], axis=0)
    return low, high


def studentised(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return the bootstrap-t interval (Efron & Tibshirani 1993, chapter 12)."""
    means_RS, errors_RS = _resampled(samples, rng)
    mean_S, error_S = samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    with np.errstate(invalid="ignore", divide="ignore"):
        t_RS = (means_RS - mean_S) / np.where(errors_RS > 1e-12, errors_RS, np.nan)
    # All examples equal: no resample has an error.
    t_RS[:, np.isnan(t_RS).all(axis=0)] = 0.0
    low, high = np.nanquantile(t_RS, [0.025, 0.975], axis=0)
    return mean_S - high * error_S, mean_S - low * error_S


def accelerated(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return the BCa interval (Efron & Tibshirani 1993, chapter 14)."""
    means_RS = np.sort(_resampled(samples, rng)[0], axis=0)
    mean_S, n = samples.mean(axis=0), len(samples)
    below_S = ((means_RS < mean_S).mean(axis=0) + (means_RS <= mean_S).mean(axis=0)) / 2
    bias_S = stats.norm.ppf(np.clip(below_S, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    left_out = (samples.sum(axis=0) - samples) / (n - 1)
    deviation = left_out.mean(axis=0) - left_out
    squares = (deviation**2).sum(axis=0)
    acceleration_S = (deviation**3).sum(axis=0) / (6 * np.where(squares > 0, squares, 1) ** 1.5)
    bounds = []
    for z in stats.norm.ppf([0.025, 0.975]):
        share_S = stats.norm.cdf(bias_S + (bias_S + z) / (1 - acceleration_S * (bias_S + z)))
        index_S = np.clip((share_S * RESAMPLES).astype(int), 0, RESAMPLES - 1)
        bounds.append(np.take_along_axis(means_RS, index_S[None], axis=0)[0])
    return bounds[0], bounds[1]


def student(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return Student's interval."""
    del rng
    return t_mean(samples)[1:3]


def cubic(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return the skew-corrected t interval alone (Hall 1992), which ours widens Student's by."""
    del rng
    n, mean_S = len(samples), samples.mean(axis=0)
    residuals = samples - mean_S
    squares = (residuals**2).sum(axis=0)
    r_S = (residuals**3).sum(axis=0) / np.where(squares > 0, squares, 1) ** 1.5
    error_S = samples.std(axis=0, ddof=1) / np.sqrt(n)
    flat = np.abs(r_S) < 1e-6
    safe = np.where(flat, 1.0, r_S)

    def inverse(z: float) -> np.ndarray:
        return np.where(flat, z, 3 / safe * (np.cbrt(1 + safe * (z - safe / 6)) - 1))

    q = float(stats.t.ppf(0.975, n - 1))
    return mean_S - inverse(q) * error_S, mean_S - inverse(-q) * error_S


def ours(samples: np.ndarray, rng: np.random.Generator) -> Bounds:
    """Return the interval of `mean_interval`; shares have Wilson's by themselves."""
    del rng
    return mean_interval(samples)[1:3]


CANDIDATES: dict[str, Callable[[np.ndarray, np.random.Generator], Bounds]] = {
    "percentile": percentile,
    "BCa": accelerated,
    "studentised": studentised,
    "Student": student,
    "cubic": cubic,
    "ours": ours,
}


def _resampled(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors of resamples, `[R,S]`; every sample is resampled by the same draws."""
    n = len(samples)
    weights_Rn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    means_RS = weights_Rn @ samples
    variance_RS = np.maximum(weights_Rn @ samples**2 - means_RS**2, 0) * n / (n - 1)
    return means_RS, np.sqrt(variance_RS / n)
