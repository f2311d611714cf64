"""What all statistics share: an interval, and numbers that are checked.

Dimension key: `E` examples (or rows), `C` cells (all other axes, flattened).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with its confidence interval; every field has the shape of one example, float64."""

    mean: Floats
    low: Floats
    high: Floats


def check_level(level: float) -> None:
    """Raise ValueError unless a level of confidence lies between 0 and 1: for those who compute long before."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}; 95 % is 0.95")


def ratio(numerator: Any, denominator: Any) -> Floats:
    """Divide; NaN where the denominator is 0."""
    return np.asarray(numerator / np.where(denominator != 0, denominator, np.nan), dtype=np.float64)


def finite_or_nan(values: ArrayLike, name: str, empty: bool = False) -> Floats:
    """In float64. Raises ValueError for no examples (unless `empty`), or infinity, naming what was given."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or (len(x) == 0 and not empty):
        raise ValueError(f"{name}: expected at least one example along the first axis, got shape {x.shape}")
    if np.isinf(x).any():
        raise ValueError(f"{name}: expected finite numbers or NaN, got infinity; mend what made them")
    return x
