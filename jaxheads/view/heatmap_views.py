"""Views of numbers of heads: a grid of cells, and two numbers as a scatter.

Dimension key: L rows (layers), N columns (heads).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import checked
from .arrays import as_numbers, packed
from .stills import heatmap_still, scatter_still
from .view import View

if TYPE_CHECKING:
    from ..plots import Picture

PARTS = ("value", "low", "high", "n", "rank", "q", "p", "null")
"""Names of what a metric may have for each cell: a value, its interval, its number of examples, where it stands."""


@checked()
def heatmap(
    metrics: Mapping[str, Any],
    *,
    words: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    axes: Sequence[str] = ("layer", "head"),
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    level: float | None = None,
    stack: str = "",
    title: str = "",
    note: str = "",
    missing: str = "not measured",
) -> View:
    """Show numbers of heads as a grid of cells and as a sorted list; a cell whose interval includes 0 is hatched.

    Args:
        metrics: by name, values `[L,N]`, or a mapping of `value low high n rank q p null` to such; the first is shown
            first. NaN is a cell that was not measured.
        words: by name, a text for each cell `[L,N]`, such as its role; the first can be filtered by. Several roles of
            one head are one text, with ", " between them.
        units: by metric.
        axes: what rows and columns are.
        rows, columns: their names; numbers when left out.
        names: of all cells, row by row; "layer 5 head 1" when left out.
        level: of the intervals, such as 0.95.
        stack: name of the heads' stack.
        note: a sentence below the title.
        missing: what it means that a cell is NaN.

    Raises:
        ValueError: for no metric, shapes that differ, an unknown part, or names of another number.
    """
    grids = metric_grids(metrics)
    payload = _grid_payload("heatmap", grids, words, units, names, level, stack, title)
    for label, given, count in (("rows", rows, payload["shape"][0]), ("columns", columns, payload["shape"][1])):
        if given is not None and len(given) != count:
            raise ValueError(f"{label}: expected {count} names, got {len(given)}")
    if len(axes) != 2:
        raise ValueError(f"axes: expected what rows and columns are, got {list(axes)}")
    payload |= {"note": note, "missing": missing, "axes": list(axes)}
    payload |= {"rowNames": _listed(rows), "columnNames": _listed(columns)}

    def draw() -> "Picture":
        name, parts = next(iter(grids.items()))
        label = ", ".join(filter(None, (name, (units or {}).get(name))))
        return heatmap_still(parts, label, title, rows or axes[0], columns or axes[1])

    return View(payload, draw, min(280 + 28 * payload["shape"][0], 900))


@checked()
def scatter(
    metrics: Mapping[str, Any],
    *,
    words: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    diagonal: bool = False,
    level: float | None = None,
    stack: str = "",
    title: str = "",
    note: str = "",
) -> View:
    """Show two numbers of heads against each other, one point a head; of more than two, any two can be chosen.

    Args:
        metrics: by name, as in `heatmap`: the first is across, the second up.
        words: as in `heatmap`; the first, such as a role, gives the points their colours.
        diagonal: whether to draw the line on which both are equal.
        note: a sentence below the title, such as the correlation of the two.

    Raises:
        ValueError: for fewer than two metrics, and as `heatmap` does.
    """
    grids = metric_grids(metrics)
    if len(grids) < 2:
        raise ValueError(f"metrics: a scatter is of two or more, got {list(grids)}")
    payload = _grid_payload("scatter", grids, words, units, names, level, stack, title)
    payload |= {"diagonal": diagonal, "note": note}

    def draw() -> "Picture":
        labels = [", ".join(filter(None, (name, (units or {}).get(name)))) for name in grids]
        L, N = payload["shape"]
        points = names or [f"{layer}.{head}" for layer in range(L) for head in range(N)]
        return scatter_still(list(grids.values())[:2], labels[:2], points, title, diagonal=diagonal)

    return View(payload, draw, 640)


def _grid_payload(
    kind: str,
    grids: Mapping[str, Mapping[str, np.ndarray]],
    words: Mapping[str, Any] | None,
    units: Mapping[str, str] | None,
    names: Sequence[str] | None,
    level: float | None,
    stack: str,
    title: str,
) -> dict[str, Any]:
    """Return what a grid and a scatter share; raises ValueError for texts that are not one a cell."""
    shape = next(iter(grids.values()))["value"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"metrics: expected arrays of two axes, not empty, got {list(shape)}")
    if names is not None and len(names) != shape[0] * shape[1]:
        raise ValueError(f"names: expected {shape[0] * shape[1]}, one a cell, got {len(names)}")
    texts = {name: word_grid(name, values, shape) for name, values in (words or {}).items()}
    return {
        "kind": kind,
        "title": title,
        "stack": stack,
        "shape": list(shape),
        "names": _listed(names),
        "metrics": packed_metrics(grids, units, level),
        "words": {name: [str(word) for word in values.flat] for name, values in texts.items()},
    }


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else [str(name) for name in names]


def metric_grids(metrics: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return each metric's parts as float arrays of one shape.

    Raises:
        ValueError: for no metric, shapes that differ, or an unknown part.
    """
    if not metrics:
        raise ValueError("metrics: expected at least one, got none")
    grids: dict[str, dict[str, np.ndarray]] = {}
    for name, given in metrics.items():
        parts = dict(given) if isinstance(given, Mapping) else {"value": given}
        if "value" not in parts or not set(parts) <= set(PARTS):
            raise ValueError(f"metrics: {name!r} needs a value, and may have {', '.join(PARTS[1:])}; got {list(parts)}")
        grids[name] = {
            part: as_numbers(f"metrics: {part} of {name!r}", own) for part, own in parts.items() if own is not None
        }
    shapes = {f"{name} {part}": own.shape for name, parts in grids.items() for part, own in parts.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"metrics: expected arrays of one shape, got {shapes}")
    return grids


def word_grid(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a word for each cell; raises ValueError for another shape."""
    words = np.asarray(values, object)
    if words.shape != shape:
        raise ValueError(f"words: {name!r} needs a text for each cell {list(shape)}, got {list(words.shape)}")
    return words


def packed_metrics(
    grids: Mapping[str, Mapping[str, np.ndarray]], units: Mapping[str, str] | None, level: float | None
) -> list[dict[str, Any]]:
    """Return metrics as plain values."""
    about = {name: {"name": name, "unit": (units or {}).get(name, ""), "level": level} for name in grids}
    return [{**about[name], **{part: packed(own, 32) for part, own in parts.items()}} for name, parts in grids.items()]
