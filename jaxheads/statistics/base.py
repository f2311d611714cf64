"""The interval type and the checks of numbers that all statistics share.

Dimension key: `E` examples (or rows), `C` cells (all other axes, flattened).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with its confidence interval; every field has the shape of one example.

    Attributes:
        mean, low, high: float64.
        n: the number of independent examples, or of clusters of them, that the interval rests on.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


def ratio(numerator: Any, denominator: Any) -> Floats:
    """Divide; a denominator of 0 gives NaN."""
    return np.asarray(numerator / np.where(denominator != 0, denominator, np.nan), dtype=np.float64)


def finite_or_nan(values: ArrayLike, name: str, empty: bool = False) -> Floats:
    """Convert to float64 and check.

    Raises:
        ValueError: for no examples (unless `empty`), or infinity; the message begins with `name`.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or (len(x) == 0 and not empty):
        raise ValueError(f"{name}: expected at least one example along the first axis, got shape {x.shape}")
    if np.isinf(x).any():
        raise ValueError(f"{name}: expected finite numbers or NaN, got infinity; mend what made them")
    return x
