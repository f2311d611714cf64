"""Pictures of training: curves over log steps, one line a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked()
def evolution(
    steps: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, Mapping[str, float]] | None = None,
    onsets: Mapping[str, ArrayLike] | None = None,
    together: Sequence[Sequence[str]] | None = None,
) -> "Figure":
    """Draw a panel for each group of curves `[C,R]`: thin lines are runs, the thick line is their median.

    Args:
        lines: by curve, named levels to draw across, such as a task's anchors.
        onsets: by curve, steps to mark; NaN is not drawn.
        together: groups of curves that share a panel; by default each curve has its own.
    """
    from matplotlib.figure import Figure

    at = 1 + np.asarray(steps)
    groups = [[name] for name in curves] if together is None else together
    figure = Figure(figsize=(4.5 * len(groups), 3.5), layout="constrained")
    for panel, names in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for color, name in enumerate(names):
            _curve(panel, at, name, np.asarray(curves[name], float), f"C{color}")
            for step in np.atleast_1d((onsets or {}).get(name, ())):
                if np.isfinite(step):
                    panel.axvline(1 + step, color=f"C{color}", linewidth=0.8, linestyle=":")
            for label, level in (lines or {}).get(name, {}).items():
                panel.axhline(level, color="0.6", linewidth=0.8, linestyle="--")
                panel.annotate(label, (at[0], level), fontsize=7, va="bottom", color="0.4")
        panel.set_xscale("log")
        panel.set_xlabel("1 + step")
        panel.legend(fontsize=7)
    return figure


def _curve(panel: Any, at: np.ndarray, name: str, values: np.ndarray, color: str) -> None:
    values = values[:, None] if values.ndim == 1 else values
    panel.plot(at, values, color=color, linewidth=0.6, alpha=0.5)
    panel.plot(at, np.median(values, axis=1), color=color, linewidth=1.8, label=name)
