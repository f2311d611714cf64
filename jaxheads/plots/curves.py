"""Pictures of training: curves over log steps, one line a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked
from .colors import color
from .panels import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .picture import Picture


@checked()
def evolution(
    steps: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, Mapping[str, float]] | None = None,
    onsets: Mapping[str, ArrayLike] | None = None,
    together: Sequence[Sequence[str]] | None = None,
) -> "Picture":
    """Draw a panel for each group of curves `[C,R]`: thin lines are runs, the thick line is their median.

    Args:
        lines: by curve, named levels to draw across, such as a task's anchors.
        onsets: by curve, steps to mark; NaN is not drawn.
        together: groups of curves that share a panel; by default each curve has its own.
    """
    at = 1 + np.asarray(steps)
    groups = [[name] for name in curves] if together is None else together
    picture, row = panels(len(groups), (4.5 * len(groups), 3.5))
    for panel, names in zip(row, groups, strict=True):
        for number, name in enumerate(names):
            draw_runs(panel, at, curves[name], label=name, number=number)
            for step in np.atleast_1d((onsets or {}).get(name, ())):
                if np.isfinite(step):
                    panel.axvline(1 + step, color=color(number), linewidth=0.8, linestyle=":")
            for label, level in (lines or {}).get(name, {}).items():
                panel.axhline(level, color="0.6", linewidth=0.8, linestyle="--")
                panel.annotate(label, (at[0], level), fontsize=7, va="bottom", color="0.4")
        panel.set_xscale("log")
        panel.set_xlabel("1 + step")
        panel.legend(fontsize=7)
    return picture


@checked(number=at_least(0))
def draw_runs(ax: "Axes", at: ArrayLike, values: ArrayLike, *, label: str, number: int = 0) -> None:
    """Draw runs `[C,R]` (or one run) as thin lines and their median as a thick one, in a colour by number."""
    values = np.asarray(values, float)
    values = values[:, None] if values.ndim == 1 else values
    ax.plot(at, values, color=color(number), linewidth=0.6, alpha=0.5)
    ax.plot(at, np.median(values, axis=1), color=color(number), linewidth=1.8, label=label)
