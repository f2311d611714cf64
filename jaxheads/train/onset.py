"""Onset of a skill, order of onsets, and phase change of a curve.

Dimension key: C checkpoints, R runs, K skills.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..arguments import at_least, checked

Floats = NDArray[np.float64]


@checked(lasting=at_least(1))
def onset(steps: ArrayLike, curve: ArrayLike, *, share: float = 0.5, lasting: int = 2, least: float = 0.0) -> Floats:
    """Return the step at which each run's curve has risen by `share` for good, `[R]`.

    The rise is that from the curve's first to its best value. It counts once the curve stays above the threshold for
    `lasting` checkpoints; the step between two checkpoints is interpolated linearly in log (1 + step). A curve that
    rises by `least` or less has no onset (NaN): its noise would decide it.

    Args:
        curve: `[C,R]`, growing as the skill does (negate a loss).

    Raises:
        ValueError: for shapes that do not fit, or steps that do not grow.
    """
    at, x = _checked(steps, curve)
    onsets = np.full(x.shape[1], np.nan)
    for run, y in enumerate(x.T):
        low, high = y[0], y.max()
        if high - low <= least:
            continue
        threshold = low + share * (high - low)
        above = y >= threshold
        for first in np.flatnonzero(above):
            if above[first : first + lasting].all():
                onsets[run] = _crossing(at, y, int(first), threshold)
                break
    return onsets


def _crossing(at: Floats, y: Floats, first: int, threshold: float) -> float:
    if first == 0:
        return float(at[0])
    before, after = np.log1p(at[first - 1 : first + 1])
    fraction = (threshold - y[first - 1]) / (y[first] - y[first - 1])
    return float(np.expm1(before + fraction * (after - before)))


class PhaseChange(NamedTuple):
    """The steepest fall of each run's curve per log step, `[R]` each; NaN for a curve that does not fall.

    Attributes:
        step: the middle of the steepest step.
        begins, ends: the steps at which a tenth and nine tenths of the fall are done.
        depth: the fall as a share of all that the curve falls.
    """

    step: Floats
    begins: Floats
    ends: Floats
    depth: Floats


@checked()
def phase_change(steps: ArrayLike, loss: ArrayLike) -> PhaseChange:
    """Find the steepest monotone fall of each run's loss, `[C,R]`.

    It is the longest stretch about the steepest step in log (1 + step) whose slope stays at least a quarter of the
    steepest. A loss that falls evenly has depth 1 over the whole of training: look at `begins` and `ends`.
    """
    at, x = _checked(steps, loss)
    log = np.log1p(at)
    changes = np.full((4, x.shape[1]), np.nan)
    for run, y in enumerate(x.T):
        slope = -np.diff(y) / np.diff(log)
        whole = y[0] - y.min()
        if whole <= 0:
            continue
        steepest = int(slope.argmax())
        first, last = steepest, steepest
        while first > 0 and slope[first - 1] >= slope[steepest] / 4:
            first -= 1
        while last < len(slope) - 1 and slope[last + 1] >= slope[steepest] / 4:
            last += 1
        fall = y[first] - y[last + 1]
        begins, ends = (
            np.expm1(np.interp(-(y[first] - fraction * fall), -y[first : last + 2], log[first : last + 2]))
            for fraction in (0.1, 0.9)
        )
        middle = np.expm1((log[steepest] + log[steepest + 1]) / 2)
        changes[:, run] = middle, begins, ends, fall / whole
    return PhaseChange(*changes)


@checked()
def order(onsets: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Tabulate the share of runs in which the row's skill sets in before the column's.

    Args:
        onsets: by skill `[R]`, from `onset`; NaN for a run without that skill.

    Returns:
        A row and a column for each skill. Only runs with both skills count, a tie counts half; NaN if no run has both.
    """
    names = list(onsets)
    x = {name: np.asarray(value, np.float64) for name, value in onsets.items()}
    table = pd.DataFrame(index=names, columns=names, dtype=float)
    for first in names:
        for second in names:
            both = ~np.isnan(x[first]) & ~np.isnan(x[second])
            if first != second and both.any():
                a, b = x[first][both], x[second][both]
                table.loc[first, second] = float(((a < b) + 0.5 * (a == b)).mean())
    return table


def _checked(steps: ArrayLike, curve: ArrayLike) -> tuple[Floats, Floats]:
    at, x = np.asarray(steps, np.float64), np.asarray(curve, np.float64)
    if x.ndim == 1:
        x = x[:, None]
    if at.ndim != 1 or x.shape[0] != len(at) or len(at) < 2:
        raise ValueError(f"expected a curve [checkpoints, runs] over two steps or more, got {x.shape} and {at.shape}")
    if (np.diff(at) <= 0).any() or at[0] < 0:
        raise ValueError("steps must be from 0 up and grow")
    return at, x
