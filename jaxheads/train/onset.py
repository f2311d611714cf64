"""When a skill sets in, in which order skills do, and where a curve changes phase.

Dimension key: C checkpoints, R runs, K skills.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def onset(steps: ArrayLike, curve: ArrayLike, *, share: float = 0.5, lasting: int = 2, least: float = 0.0) -> Floats:
    """The step at which each run's curve first reaches `share` of the way from its first to its best value and stays
    above for `lasting` checkpoints; between two checkpoints by linear interpolation in log (1 + step).

    NaN where the way is not longer than `least`: a curve that hardly moves has no onset, whatever its noise does.

    Args:
        curve: `[C,R]`, growing as the skill does (give a loss its sign).

    Raises:
        ValueError: for shapes that do not fit, or steps that do not grow.
    """
    at, x = _checked(steps, curve)
    found = np.full(x.shape[1], np.nan)
    for run, y in enumerate(x.T):
        low, high = y[0], y.max()
        if high - low <= least:
            continue
        threshold = low + share * (high - low)
        above = y >= threshold
        for first in np.flatnonzero(above):
            if above[first : first + lasting].all():
                found[run] = _crossing(at, y, int(first), threshold)
                break
    return found


def _crossing(at: Floats, y: Floats, first: int, threshold: float) -> float:
    if first == 0:
        return float(at[0])
    before, after = np.log1p(at[first - 1 : first + 1])
    part = (threshold - y[first - 1]) / (y[first] - y[first - 1])
    return float(np.expm1(before + part * (after - before)))


class PhaseChange(NamedTuple):
    """Where each run's curve falls fastest per log step, `[R]` each: the step, where the fall begins and ends (a tenth
    and nine tenths of it), and its depth as a share of all that the curve falls. NaN where it does not fall."""

    step: Floats
    begins: Floats
    ends: Floats
    depth: Floats


def phase_change(steps: ArrayLike, loss: ArrayLike) -> PhaseChange:
    """The steepest monotone fall of a loss `[C,R]`: the longest stretch about the steepest step in log (1 + step)
    through which it keeps falling by at least a quarter of that slope.

    A loss that falls at an even pace has depth 1 over the whole of training: look at `begins` and `ends`.
    """
    at, x = _checked(steps, loss)
    log = np.log1p(at)
    found = np.full((4, x.shape[1]), np.nan)
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
        tenth, most = (
            np.expm1(np.interp(-(y[first] - part * fall), -y[first : last + 2], log[first : last + 2]))
            for part in (0.1, 0.9)
        )
        middle = np.expm1((log[steepest] + log[steepest + 1]) / 2)
        found[:, run] = middle, tenth, most, fall / whole
    return PhaseChange(*found)


def order(onsets: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """In which order skills set in, over runs.

    Args:
        onsets: by skill `[R]`, from `onset`; NaN for a run in which it never does.

    Returns:
        A row and a column a skill: the share of runs in which the row's sets in before the column's, of those where
        both do (NaN where none has both; a tie counts half).
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
