"""Numbers of a few rows of a table, each with its interval."""

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from ..arguments import checked
from .colors import color
from .panels import panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Panel


@checked()
def intervals(
    frame: pd.DataFrame, column: str | None = None, *, title: str = "", label: str = "", ax: "Axes | None" = None
) -> "Panel":
    """Draw a column of a frame as points with their intervals, one row each, and return the axes.

    `intervals(table.top("effect", 10))` shows the leading heads by name, as "layer.head"; the first row is at the top.

    Args:
        frame: with the columns `column`, `column_low` and `column_high`.
        column: by default the first that has an interval.
        label: what the numbers are, with their unit; the column's name when left out.
        ax: axes to draw on; by default those of a new picture.

    Raises:
        ValueError: for a frame without such columns, or without rows.
    """
    known = [name for name in map(str, frame) if {f"{name}_low", f"{name}_high"} <= set(frame)]
    column = known[0] if column is None and known else column
    if column not in known or not len(frame):
        raise ValueError(f"column: expected one with _low and _high, of {known}, got {column!r} of {len(frame)} rows")
    mean, low, high = (frame[f"{column}{end}"].to_numpy(np.float64) for end in ("", "_low", "_high"))
    ax = cast("Panel", panel((5, min(1.2 + 0.25 * len(frame), 12))) if ax is None else ax)
    at = np.arange(len(frame))
    # A mean without an interval, of one example, stays a point.
    ax.errorbar(mean, at, xerr=np.nan_to_num([mean - low, high - mean]), fmt="o", color=color(0), capsize=2)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_yticks(at, [_row_name(entry) for entry in frame.index])
    ax.invert_yaxis()
    ax.set(title=title, xlabel=label or column, ylabel=".".join(str(name) for name in frame.index.names[-2:] if name))
    return ax


def _row_name(entry: object) -> str:
    return ".".join(map(str, entry[1:])) if isinstance(entry, tuple) and len(entry) > 1 else str(entry)
