"""Views of curves: numbers over layers, or over the steps of training.

Dimension key: C points of a curve, R runs.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from .arrays import as_numbers, packed
from .stills import curves_still
from .view import View

if TYPE_CHECKING:
    from ..plots import Picture

LINE_PARTS = ("value", "low", "high", "runs")


@checked()
def curves(
    x: ArrayLike,
    lines: Mapping[str, Any],
    *,
    x_label: str = "step",
    y_label: str = "",
    points: Sequence[str] | None = None,
    marks: Mapping[str, ArrayLike] | None = None,
    levels: Mapping[str, float] | None = None,
    panels: Mapping[str, Sequence[str]] | None = None,
    log: bool = False,
    title: str = "",
) -> View:
    """Show curves that a legend switches, with a cursor that reads all of them at a point.

    Args:
        x: where the curves are known, `[C]`, rising.
        lines: by name, values `[C]`, or a mapping of `value low high runs` to such; `runs` `[C,R]` are drawn as thin
            lines, and their median is the value where none is given. NaN breaks a line.
        x_label, y_label: what the axes are; the first line's name is y's when left out.
        points: names of the points, in place of their numbers.
        marks: by line, places on x to mark, such as the onset of a head; NaN is not drawn.
        levels: by name, heights to draw across, such as chance.
        panels: by name, the lines that share an axis, of which one panel is shown at a time; all when left out.
        log: whether x is on a logarithmic scale; it then must be above 0.

    Raises:
        ValueError: for no line, shapes that don't fit, or an x that does not rise, or is not above 0 where `log`.
    """
    at = np.asarray(x, np.float64)
    if at.ndim != 1 or not at.size or not np.isfinite(at).all() or (np.diff(at) <= 0).any() or (log and at[0] <= 0):
        raise ValueError(f"x: expected rising numbers{' above 0' if log else ''}, got {at.tolist()[:8]}")
    if points is not None and len(points) != len(at):
        raise ValueError(f"points: expected {len(at)} names, got {len(points)}")
    drawn = {name: _parts(name, own, len(at)) for name, own in lines.items()}
    if not drawn or set(marks or {}) - set(drawn):
        raise ValueError(f"lines: expected one or more, and marks of these; got {list(lines)}, {list(marks or {})}")
    groups = {y_label or next(iter(drawn)): [*drawn]}
    groups = groups if panels is None else {name: [*own] for name, own in panels.items()}
    if not groups or not all(groups.values()) or {line for own in groups.values() for line in own} - set(drawn):
        raise ValueError(f"panels: expected names of the lines {list(drawn)}, got {groups}")
    marked = {name: np.atleast_1d(np.asarray(own, np.float64)) for name, own in (marks or {}).items()}
    payload = {
        "kind": "curves",
        "title": title,
        "x": {"name": x_label, "values": packed(at, 32), "log": log, "names": None if points is None else list(points)},
        "y": y_label or next(iter(drawn)),
        "lines": [
            {
                "name": name,
                "middle": packed(parts["value"], 32),
                **{part: packed(parts[part], 32) for part in ("low", "high") if part in parts},
                **({"runs": packed(parts["runs"].T, 32)} if "runs" in parts else {}),
                "marks": [float(own) for own in marked.get(name, ()) if np.isfinite(own)],
            }
            for name, parts in drawn.items()
        ],
        "panels": [{"name": name, "lines": own} for name, own in groups.items()],
        "levels": [{"name": name, "value": float(own)} for name, own in (levels or {}).items()],
    }

    def draw() -> "Picture":
        name, first = next(iter(groups.items()))
        shown = {line: drawn[line] for line in first}
        return curves_still(at, shown, marked, levels or {}, (x_label, name), title, log=log)

    return View(payload, draw, 600)


_drawn = curves  # an argument of `evolution` has its name


@checked()
def evolution(
    steps: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, float] | None = None,
    onsets: Mapping[str, ArrayLike] | None = None,
    label: str = "score",
    title: str = "",
) -> View:
    """Show numbers over training, at 1 + step on a logarithmic scale: thin lines are runs, the thick one their median.

    Args:
        steps: `[C]`, rising from 0 or later.
        curves: by name, `[C]`, or `[C,R]` of several runs, as `Trace.best` returns them.
        lines: by name, levels to draw across, such as chance.
        onsets: by curve, steps to mark; NaN is not drawn.
        label: what the numbers are.

    Raises:
        ValueError: as `curves` does.
    """
    drawn = {name: {"runs": own} if np.ndim(own) == 2 else {"value": own} for name, own in curves.items()}
    marks = {name: 1 + np.asarray(own, np.float64) for name, own in (onsets or {}).items()}
    at = 1 + np.asarray(steps, np.float64)
    return _drawn(at, drawn, x_label="1 + step", y_label=label, marks=marks, levels=lines, log=True, title=title)


def _parts(name: str, given: Any, count: int) -> dict[str, np.ndarray]:
    """Return a line's arrays; raises ValueError for shapes that don't fit."""
    parts = dict(given) if isinstance(given, Mapping) else {"value": given}
    if not set(parts) <= set(LINE_PARTS) or not {"value", "runs"} & set(parts):
        raise ValueError(f"lines: {name!r} needs a value or runs, and may have low and high; got {list(parts)}")
    arrays = {part: as_numbers(f"lines: {part} of {name!r}", own) for part, own in parts.items() if own is not None}
    if "runs" in arrays and arrays["runs"].ndim == 2 and "value" not in arrays:
        arrays["value"] = np.median(arrays["runs"], axis=1)
    for part, own in arrays.items():
        if own.shape[:1] != (count,) or own.ndim != 1 + (part == "runs"):
            expected = f"[{count}, runs]" if part == "runs" else f"[{count}]"
            raise ValueError(f"lines: {part} of {name!r} needs the shape {expected}, got {list(own.shape)}")
    return arrays
