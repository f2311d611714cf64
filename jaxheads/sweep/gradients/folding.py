"""From one number for every layer, position and head to the cells of a table."""

from collections.abc import Sequence

import numpy as np


def fold(found_BLTN: np.ndarray, mask_BT: np.ndarray, by: Sequence[str], positions: int) -> np.ndarray:
    """Sums over what `by` doesn't name, `[B, *by]`.

    Args:
        mask_BT: which positions are real: others say nothing.
        positions: how many the table has, counted over real tokens; NaN where an example has no such position.
    """
    found_BLTN = np.where(mask_BT[:, None, :, None], found_BLTN, 0.0)
    if "head" not in by:
        found_BLTN = found_BLTN.sum(axis=3, keepdims=True)
    if "position" in by:
        real_first_BP = np.argsort(~mask_BT, axis=1, kind="stable")[:, :positions]
        found_BLTN = np.take_along_axis(found_BLTN, real_first_BP[:, None, :, None], axis=2)
        missing_BP = np.arange(positions)[None] >= mask_BT.sum(axis=1)[:, None]
        found_BLTN = np.where(missing_BP[:, None, :, None], np.nan, found_BLTN)
    else:
        found_BLTN = found_BLTN.sum(axis=2, keepdims=True)
    axes = {"layer": 1, "position": 2, "head": 3}
    left = tuple(axis for name, axis in axes.items() if name not in by)
    ordered = np.transpose(found_BLTN, (0, *(axes[name] for name in by), *left))
    return ordered.reshape(ordered.shape[: 1 + len(by)])


def mean_size(effects: np.ndarray) -> np.ndarray:
    """The mean over examples of the absolute value, NaN left out: `[*grid]` from `[E, *grid]`."""
    known = np.isfinite(effects)
    total = np.where(known, np.abs(effects), 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
