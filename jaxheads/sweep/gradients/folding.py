"""Sums of estimates: from a number for every layer, position and head to the cells of a table."""

from collections.abc import Sequence

import numpy as np


def fold(
    estimates_BLTN: np.ndarray,
    mask_BT: np.ndarray,
    by: Sequence[str],
    positions: int,
    cells_LCN: np.ndarray | None = None,
) -> np.ndarray:
    """Sum estimates over the axes that `by` leaves out, `[B, *by]`.

    Args:
        cells_LCN: with "kv_head" in `by`, which heads belong to each cell.
        mask_BT: the real positions; padding counts as 0.
        positions: of the table, counted over real tokens; NaN where an example has no such position.
    """
    estimates_BLTN = np.where(mask_BT[:, None, :, None], estimates_BLTN, 0.0)
    if cells_LCN is not None:
        # Selected, not multiplied: a head that overflowed must not reach the cells of others.
        chosen_BLTCN = np.where(cells_LCN[None, :, None], estimates_BLTN[:, :, :, None], 0.0)
        estimates_BLTN = chosen_BLTCN.sum(axis=4)
    elif "head" not in by:
        estimates_BLTN = estimates_BLTN.sum(axis=3, keepdims=True)
    if "position" in by:
        # Padding lies on either side: a stable sort puts each example's real columns first, in their order.
        real_first_BP = np.argsort(~mask_BT, axis=1, kind="stable")[:, :positions]
        estimates_BLTN = np.take_along_axis(estimates_BLTN, real_first_BP[:, None, :, None], axis=2)
        missing_BP = np.arange(positions)[None] >= mask_BT.sum(axis=1)[:, None]
        estimates_BLTN = np.where(missing_BP[:, None, :, None], np.nan, estimates_BLTN)
    else:
        estimates_BLTN = estimates_BLTN.sum(axis=2, keepdims=True)
    axes = {"layer": 1, "position": 2, "kv_head" if cells_LCN is not None else "head": 3}
    summed = tuple(axis for name, axis in axes.items() if name not in by)
    ordered = np.transpose(estimates_BLTN, (0, *(axes[name] for name in by), *summed))
    return ordered.reshape(ordered.shape[: 1 + len(by)])
