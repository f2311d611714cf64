"""Reading times regressed on what is known of words, without and with their surprisal.

Dimension key: W words of a sentence, G groups of documents, C cells, P predictors, Q predictors and the time, M numbers
of surprisal, K all of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...statistics.base import Floats

FOLDS = 10
"""Parts of the documents, each predicted by the others."""

GROUPS = 2040
"""Documents beyond this number share sums with others of their fold, so that memory does not grow; whole folds."""

COLLINEAR = 1e-10
"""Eigenvalues of the predictors' correlations that count as 0, relative to the largest."""


@dataclass(frozen=True, eq=False)
class TimeRegression:
    """A linear regression of times, whose log-likelihood is that of documents which it was not fitted on.

    Attributes:
        known: by sentence, the predictors of its words that count, and their times, standardised, `[W,Q]`.
        kept: by sentence, the indices of its words that count.
        group: by sentence, the group of its document.
        spill_over: the number of words before, whose numbers are predictors, too.
        documents: their number.
    """

    known: Sequence[Floats]
    kept: Sequence[np.ndarray]
    group: np.ndarray
    spill_over: int
    documents: int

    @classmethod
    def of(
        cls,
        times: Sequence[np.ndarray],
        controls: Sequence[Mapping[str, np.ndarray]],
        surprisal: Sequence[np.ndarray],
        document: Sequence[int],
        spill_over: int,
    ) -> "TimeRegression":
        """Return the regression of all words with a time, a surprisal, and `spill_over` words before that have one.

        Raises:
            ValueError: for fewer than 2 documents, or fewer than 20 words for each predictor.
        """
        kept, rows = [], []
        for own, known, expected in zip(times, controls, surprisal, strict=True):
            matrix_WP = np.stack([*known.values()], axis=1) if known else np.zeros((len(own), 0))
            moving = [not name.startswith("position") for name in known]
            # A position is the last word's plus one: it needs no lag.
            lagged = [matrix_WP, *(lag(matrix_WP[:, moving], steps) for steps in range(1, spill_over + 1))]
            all_WQ = np.concatenate([np.ones((len(own), 1)), *lagged, own[:, None]], axis=1)
            whole_W = np.isfinite(all_WQ).all(axis=1) & np.isfinite(lags(expected, spill_over)).all(axis=1)
            kept.append(np.flatnonzero(whole_W))
            rows.append(all_WQ[whole_W])
        owners = np.repeat(document, [len(own) for own in kept])
        names, words = np.unique(owners), len(owners)
        least = 20 * (rows[0].shape[1] + spill_over)
        if len(names) < 2 or words < least:
            raise ValueError(
                f"times: a regression that predicts other documents needs two of them and {least} words with a time; "
                f"got {len(names)} and {words}"
            )
        group = np.minimum(np.searchsorted(names, document), len(names) - 1) % GROUPS
        return cls(_standardised(rows), kept, group, spill_over, len(names))

    @property
    def fold(self) -> np.ndarray:
        """The fold of each group, `[G]`."""
        groups = min(self.documents, GROUPS)
        return np.arange(groups) % min(FOLDS, groups)


def _standardised(rows: Sequence[Floats]) -> list[Floats]:
    """Return rows `[W,Q]` whose columns, the intercept apart, have mean 0 and deviation 1 over all of them."""
    every = np.concatenate(rows)
    mean_Q, deviation_Q = every.mean(axis=0), every.std(axis=0)
    mean_Q[0], deviation_Q[deviation_Q == 0] = 0.0, 1.0
    return [(own - mean_Q) / deviation_Q for own in rows]


class SurprisalMoments:
    """Sums of products of predictors, times and the surprisal of each cell, by group of documents.

    Sentences are added one by one; none is kept.

    Args:
        cells: the number of models that surprisal comes from.
    """

    def __init__(self, regression: TimeRegression, cells: int):
        self.regression = regression
        groups, Q, M = len(regression.fold), regression.known[0].shape[1], regression.spill_over + 1
        self.known_GQQ = np.zeros((groups, Q, Q))
        self.both_GCQM = np.zeros((groups, cells, Q, M))
        self.own_GCMM = np.zeros((groups, cells, M, M))
        self.counts_G = np.zeros(groups)

    @classmethod
    def of(cls, regression: TimeRegression, surprisal: Sequence[np.ndarray]) -> "SurprisalMoments":
        """Return the moments of one model, by its surprisal of all sentences, `[W]` each."""
        moments = cls(regression, 1)
        for index, values_W in enumerate(surprisal):
            moments.add(index, values_W[None])
        return moments

    def add(self, sentence: int, surprisal_CW: np.ndarray) -> None:
        """Add the words of a sentence that count."""
        regression = self.regression
        known_WQ, group = regression.known[sentence], regression.group[sentence]
        moving_CWM = lags(surprisal_CW, regression.spill_over)[:, regression.kept[sentence]]
        self.known_GQQ[group] += known_WQ.T @ known_WQ
        self.both_GCQM[group] += known_WQ.T @ moving_CWM
        self.own_GCMM[group] += moving_CWM.swapaxes(1, 2) @ moving_CWM
        self.counts_G[group] += len(known_WQ)

    def gains(self) -> tuple[Floats, Floats]:
        """Return by how much surprisal raises the log-likelihood, nats a word, summed by group of documents.

        Returns:
            The sums `[G,C]`, and the number of words of each group, `[G]`.
        """
        fold_G = self.regression.fold
        base_G = held_out_likelihood(self.known_GQQ, self.counts_G, fold_G)
        cells = [held_out_likelihood(products, self.counts_G, fold_G) for products in self._products()]
        return np.stack(cells, axis=1) - base_G[:, None], self.counts_G

    def _products(self) -> Iterator[Floats]:
        """Yield the products of all columns of each cell, with the time as the last, `[G,K,K]`."""
        known_GQQ = self.known_GQQ
        for cell in range(self.both_GCQM.shape[1]):
            both_GQM, own_GMM = self.both_GCQM[:, cell], self.own_GCMM[:, cell]
            upper = np.concatenate([own_GMM, both_GQM.swapaxes(1, 2)], axis=2)
            yield np.concatenate([upper, np.concatenate([both_GQM, known_GQQ], axis=2)], axis=1)


def held_out_likelihood(products_GKK: Floats, counts_G: Floats, fold_G: np.ndarray) -> Floats:
    """Return the normal log-likelihood of each group's times by the least squares fit of the other folds, nats, `[G]`.

    Args:
        products_GKK: sums over words of the products of all predictors and, last, the time.
        counts_G: the number of words.
    """
    result_G = np.empty(len(products_GKK))
    for fold in np.unique(fold_G):
        out = fold_G == fold
        fitted_KK, count = products_GKK[~out].sum(axis=0), counts_G[~out].sum()
        # Of collinear predictors the shortest weights, as a least squares fit of the words has them.
        size_P = np.sqrt(np.diag(fitted_KK)[:-1])
        size_P[size_P == 0] = 1.0
        inverse_PP = np.linalg.pinv(fitted_KK[:-1, :-1] / np.outer(size_P, size_P), COLLINEAR, hermitian=True)
        residual_K = np.append(-inverse_PP @ (fitted_KK[:-1, -1] / size_P) / size_P, 1.0)
        least = np.finfo(float).eps * fitted_KK[-1, -1]
        variance = max(residual_K @ fitted_KK @ residual_K, least, np.finfo(float).tiny) / count
        squares_G = np.einsum("k,gkl,l->g", residual_K, products_GKK[out], residual_K).clip(0.0)
        result_G[out] = -0.5 * (counts_G[out] * np.log(2 * np.pi * variance) + squares_G / variance)
    return result_G


def lag(values_WP: np.ndarray, steps: int) -> Floats:
    """Return the rows of `steps` words before, `[W,…]`; NaN for the first words."""
    moved = np.full(values_WP.shape, np.nan)
    moved[steps:] = values_WP[: max(0, len(values_WP) - steps)]
    return moved


def lags(values_W: np.ndarray, count: int) -> Floats:
    """Return the values of each word and of `count` words before it, `[…,W,1 + count]`."""
    moved = [np.moveaxis(lag(np.moveaxis(values_W, -1, 0), steps), 0, -1) for steps in range(count + 1)]
    return np.stack(moved, axis=-1)
