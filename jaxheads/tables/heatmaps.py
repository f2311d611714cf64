"""Heatmaps of a grid of numbers, drawn without pyplot: no global state, no display needed."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    grid: NDArray[np.float64], *, title: str, label: str, ylabel: str, xlabel: str, ax: "Axes | None" = None
) -> "Axes":
    """Draw `[rows,columns]` with a colourbar named `label`, on `ax` or a new figure; row 0 is at the top.

    Numbers of both signs have diverging colours, symmetric about 0; numbers of one sign sequential ones. NaN is grey.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    ax = _new_axes(grid.shape) if ax is None else ax
    known = grid[np.isfinite(grid)]
    both_signs = known.size > 0 and known.min() < 0 < known.max()
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if both_signs:
        low, high = -np.abs(known).max(), np.abs(known).max()
    colours = matplotlib.colormaps["RdBu_r" if both_signs else "viridis"].with_extremes(bad="0.85")
    image = ax.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return ax


def _new_axes(shape: tuple[int, ...]) -> "Axes":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = shape
    figure = Figure(figsize=(min(3.5 + 0.3 * columns, 14), min(2 + 0.25 * rows, 12)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()
