"""Linear probes from moments: ridge regression in closed form, and steps of multinomial logistic regression.

Dimension key: G probes (layers and heads), F features, X features with the constant behind them, C classes.
"""

from dataclasses import dataclass

import numpy as np

SMALLEST = 1e-12
"""Variance that a probe of constant features is solved with."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over units of products of each probe's features; the last feature is the constant 1.

    Attributes:
        squares: of features with each other, `[...,X,X]`, float64.
        classes: of features with classes, `[...,X,C]`, float64.
    """

    squares: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> "Moments":
        """Return the moments of both kinds side by side, `[...,X,X+C]`."""
        X = sums.shape[-2]
        return cls(sums[..., :X], sums[..., X:])

    @property
    def count(self) -> float:
        """The number of units."""
        return float(self.squares[..., -1, -1].max())

    @property
    def mean(self) -> np.ndarray:
        """The mean of the features, `[...,F]`."""
        return self.squares[..., -1, :-1] / self.count

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the features, `[...,F,F]`."""
        mean = self.mean
        return self.squares[..., :-1, :-1] / self.count - mean[..., :, None] * mean[..., None, :]

    @property
    def class_means(self) -> np.ndarray:
        """The mean of the features of each class, `[...,C,F]`; 0 for a class without units."""
        sums = np.swapaxes(self.classes, -1, -2)
        return sums[..., :-1] / np.maximum(sums[..., -1:], 1.0)

    def penalised(self, penalty: float, share: float = 1.0) -> np.ndarray:
        """Return a share of the squares a unit, `[...,X,X]`, with a penalty of all weights but the constant's.

        The penalty is relative to the mean variance of a probe's features: the same probe at any scale.
        """
        variance = np.trace(self.covariance, axis1=-2, axis2=-1) / max(self.squares.shape[-1] - 1, 1)
        weighed = np.append(np.ones(self.squares.shape[-1] - 1), 0.0)
        added = (penalty * np.maximum(variance, 0.0) + SMALLEST)[..., None, None] * np.diag(weighed)
        return share * self.squares / self.count + added

    def ridge(self, penalty: float) -> np.ndarray:
        """Return the weights of ridge regression of each class's indicator, `[...,X,C]`."""
        return np.linalg.solve(self.penalised(penalty), self.classes / self.count)


@dataclass
class Ascent:
    """Steps towards the penalised maximum of a multinomial likelihood, from gradients that are sums over units.

    The Hessian is replaced by its bound, half the squares (Böhning 1992), so that no step needs more than moments; the
    steps are accelerated (Nesterov 1983). A probe whose steps turn against its gradient starts anew.

    Attributes:
        moments: of the same units.
        penalty: relative to the mean variance of a probe's features.
        at: the weights where the next gradient is needed, `[...,X,C]`.
        weights: the weights so far.
    """

    moments: Moments
    penalty: float

    def __post_init__(self) -> None:
        # Where a score is the same for all classes the likelihood is flat: the bound ½ is one of the whole.
        self._bound = self.moments.penalised(self.penalty, share=0.5)
        self._weighed = self.moments.penalised(self.penalty, share=0.0)
        self.weights = self.at = np.zeros_like(self.moments.classes)
        self._age = np.ones(self.moments.classes.shape[:-2])

    def step(self, gradient: np.ndarray) -> float:
        """Take one step by the gradient of the summed log-likelihood at `at`; return the longest relative step."""
        uphill = gradient / self.moments.count - self._weighed @ self.at
        step = np.linalg.solve(self._bound, uphill)
        new = self.at + step
        turned = (uphill * (new - self.weights)).sum(axis=(-2, -1)) < 0
        age = np.where(turned, 1.0, (1 + np.sqrt(1 + 4 * self._age**2)) / 2)
        pull = np.where(turned, 0.0, (self._age - 1) / age)
        self.at = new + pull[..., None, None] * (new - self.weights)
        self.weights, self._age = new, age
        size = np.sqrt((step**2).sum(axis=(-2, -1)))
        return float((size / np.maximum(np.sqrt((new**2).sum(axis=(-2, -1))), SMALLEST)).max())
