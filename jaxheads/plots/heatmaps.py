"""Heatmaps of a grid of numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from .colors import DIVERGING, MISSING, SEQUENTIAL, text_on
from .panels import panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from .picture import Panel


@checked()
def heatmap(
    grid: ArrayLike,
    *,
    title: str = "",
    label: str = "",
    rows: str | Sequence[str] = "",
    columns: str | Sequence[str] = "",
    limits: tuple[float, float] | None = None,
    numbers: str | None = None,
    ax: "Axes | None" = None,
) -> "Panel":
    """Draw `[rows,columns]` with a bar of its colours, and return the axes; row 0 is at the top.

    Numbers of both signs have diverging colours, symmetric about 0; numbers of one sign sequential ones. NaN is grey.

    Args:
        label: what the numbers are, with their unit: the name of the bar.
        rows: the axis' name, or a name for each row.
        columns: the axis' name, or a name for each column.
        limits: least and largest number of the colours; by default those of the grid.
        numbers: a format such as ".2f", in which each cell shows its number.
        ax: axes to draw on; by default those of a new picture.

    Raises:
        ValueError: for a grid without two axes, or names that are not one a row or column.
    """
    import matplotlib

    grid_RC = np.asarray(grid, np.float64)
    if grid_RC.ndim != 2 or not grid_RC.size:
        raise ValueError(f"grid: expected numbers [rows,columns], got the shape {list(grid_RC.shape)}")
    ax = cast("Panel", panel(_size(grid_RC.shape)) if ax is None else ax)
    low, high = _limits(grid_RC) if limits is None else limits
    colors = matplotlib.colormaps[DIVERGING if low < 0 < high else SEQUENTIAL].with_extremes(bad=MISSING)
    image = ax.imshow(grid_RC, cmap=colors, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.set(title=title)
    _name(ax, "y", rows, grid_RC.shape[0])
    _name(ax, "x", columns, grid_RC.shape[1])
    if numbers is not None:
        _write_numbers(ax, image, grid_RC, numbers)
    return ax


def _size(shape: tuple[int, ...]) -> tuple[float, float]:
    rows, columns = shape
    return min(3.5 + 0.3 * columns, 14), min(2 + 0.25 * rows, 12)


def _limits(grid_RC: np.ndarray) -> tuple[float, float]:
    known = grid_RC[np.isfinite(grid_RC)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (-max(-low, high), max(-low, high)) if low < 0 < high else (low, high)


def _name(ax: "Axes", axis: str, names: str | Sequence[str], count: int) -> None:
    """Name an axis, or its rows or columns one by one."""
    from matplotlib.ticker import MaxNLocator

    if isinstance(names, str):
        ax.set(**{f"{axis}label": names})
        getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    if len(names) != count:
        raise ValueError(f"{'rows' if axis == 'y' else 'columns'}: expected {count} names, got {len(names)}")
    if axis == "y":
        ax.set_yticks(range(count), list(names), fontsize=8)
    else:
        ax.set_xticks(range(count), list(names), rotation=60, ha="right", rotation_mode="anchor", fontsize=8)


def _write_numbers(ax: "Axes", image: "AxesImage", grid_RC: np.ndarray, numbers: str) -> None:
    """Write each cell's number in the colour that can be read on the cell's."""
    backgrounds = np.asarray(image.cmap(image.norm(grid_RC)))
    for (row, column), value in np.ndenumerate(grid_RC):
        if np.isfinite(value):
            words, color = format(value, numbers), text_on(backgrounds[row, column])
            ax.text(column, row, words, ha="center", va="center", fontsize=7, color=color)
