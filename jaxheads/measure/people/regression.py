"""Reading times regressed on what is known of words, without and with their surprisal.

Dimension key: W words of a sentence, D documents, C cells, P predictors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...statistics.base import Floats

FOLDS = 10
"""Parts of the documents, each predicted by the others."""


@dataclass(frozen=True, eq=False)
class TimeRegression:
    """A linear regression of times, whose log-likelihood is that of documents which it was not fitted on.

    Attributes:
        times: `[W]`, of the words that count, over all sentences.
        known: what is known of each word, and of the words before it, `[W,P]`, with an intercept.
        kept: by sentence, the indices of its words that count.
        document: of each word that counts, `[W]`.
        spill_over: the number of words before, whose numbers are predictors, too.
    """

    times: Floats
    known: Floats
    kept: Sequence[np.ndarray]
    document: np.ndarray
    spill_over: int

    @classmethod
    def of(
        cls,
        times: Sequence[np.ndarray],
        controls: Sequence[Mapping[str, np.ndarray]],
        surprisal: Sequence[np.ndarray],
        document: Sequence[int],
        spill_over: int,
    ) -> "TimeRegression":
        """Return the regression of all words with a time, a surprisal, and so many words before them that have one.

        Raises:
            ValueError: for fewer than 2 documents, or fewer than 20 words for each predictor.
        """
        kept, columns, chosen, owners = [], [], [], []
        for own, known, expected, number in zip(times, controls, surprisal, document, strict=True):
            matrix_WP = np.stack([*known.values()], axis=1) if known else np.zeros((len(own), 0))
            moving = [name != "position" for name in known]
            # A position is the last word's plus one: it needs no lag.
            lagged = [matrix_WP, *(lag(matrix_WP[:, moving], steps) for steps in range(1, spill_over + 1))]
            predictors_WP = np.concatenate([np.ones((len(own), 1)), *lagged], axis=1)
            whole_W = np.isfinite(own) & np.isfinite(predictors_WP).all(axis=1)
            whole_W &= np.isfinite(lags(expected, spill_over)).all(axis=1)
            kept.append(np.flatnonzero(whole_W))
            columns.append(predictors_WP[whole_W])
            chosen.append(own[whole_W])
            owners.append(np.full(whole_W.sum(), number))
        known_WP, document_W = np.concatenate(columns), np.concatenate(owners)
        least, documents = 20 * (known_WP.shape[1] + spill_over + 1), len(np.unique(document_W))
        if documents < 2 or len(known_WP) < least:
            raise ValueError(
                f"times: a regression that predicts other documents needs two of them and {least} words with a time; "
                f"got {documents} and {len(known_WP)}"
            )
        return cls(np.concatenate(chosen), known_WP, kept, document_W, spill_over)

    def gains(self, surprisal: Sequence[np.ndarray]) -> tuple[Floats, Floats]:
        """Return by how much surprisal raises the log-likelihood, nats a word, summed by document.

        Args:
            surprisal: by sentence, `[C,W]`.

        Returns:
            The sums `[D,C]`, and the number of words of each document, `[D]`.
        """
        moving_CWP = np.concatenate(
            [
                np.moveaxis(lags(own, self.spill_over), -1, 0)[:, :, at]
                for own, at in zip(surprisal, self.kept, strict=True)
            ],
            axis=2,
        ).transpose(1, 2, 0)
        names, owner_W = np.unique(self.document, return_inverse=True)
        fold_W = owner_W % min(FOLDS, len(names))
        base_W = held_out_likelihood(self.known, self.times, fold_W)
        sums_DC = np.zeros((len(names), len(moving_CWP)))
        for cell, moving_WP in enumerate(moving_CWP):
            whole_W = held_out_likelihood(np.concatenate([self.known, moving_WP], axis=1), self.times, fold_W)
            np.add.at(sums_DC[:, cell], owner_W, whole_W - base_W)
        return sums_DC, np.bincount(owner_W).astype(float)


def held_out_likelihood(predictors_WP: Floats, times_W: Floats, fold_W: np.ndarray) -> Floats:
    """Return the normal log-likelihood of each time, nats, by the least squares fit of the other folds, `[W]`."""
    result_W = np.empty(len(times_W))
    for fold in np.unique(fold_W):
        out = fold_W == fold
        weights_P, *_ = np.linalg.lstsq(predictors_WP[~out], times_W[~out], rcond=None)
        residual_W = times_W - predictors_WP @ weights_P
        variance = (residual_W[~out] ** 2).mean()
        result_W[out] = -0.5 * (np.log(2 * np.pi * variance) + residual_W[out] ** 2 / variance)
    return result_W


def lag(values_WP: np.ndarray, steps: int) -> Floats:
    """Return the rows of `steps` words before, `[W,…]`; NaN for the first words."""
    moved = np.full(values_WP.shape, np.nan)
    moved[steps:] = values_WP[: len(values_WP) - steps]
    return moved


def lags(values_W: np.ndarray, count: int) -> Floats:
    """Return the values of each word and of `count` words before it, `[…,W,1 + count]`."""
    moved = [np.moveaxis(lag(np.moveaxis(values_W, -1, 0), steps), 0, -1) for steps in range(count + 1)]
    return np.stack(moved, axis=-1)
