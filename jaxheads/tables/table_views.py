"""Views of tables: a grid of heads, curves over layers, a graph of edges, two tables as a scatter.

Dimension key: L, N axes of the grid, U senders, V receivers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..view import View, curves, graph, heatmap, scatter
from ..view.components import component_graph

ALONG = ("layer", "position", "step", "component")
"""Single axes whose cells have an order, so that they make a curve."""

OF_METRIC = {"q_value": "q", "p_value": "p", "null": "null"}
"""Extras of a table with one metric that belong to the metric."""


def table_view(table: Any, column: str) -> View:
    """Show one table, in the form that its axes ask for."""
    axes = [str(axis) for axis in table.frame.index.names[1:]]
    if axes == ["sender", "receiver"]:
        return _edges(table, column)
    if len(axes) == 1 and axes[0] in ALONG:
        return _curves(table, axes[0], column)
    metrics, words, units = _columns(table, column)
    about: dict[str, Any] = {"units": units, "stack": table.stack, "title": _title(table), **_level(table)}
    if axes == ["layer", "head"]:
        return heatmap(metrics, words=words, **about)
    down, across = axes[:-1], axes[-1]
    shape = (int(np.prod(table.shape[:-1], dtype=int)), table.shape[-1])
    metrics = {name: {part: own.reshape(shape) for part, own in parts.items()} for name, parts in metrics.items()}
    words = {name: own.reshape(shape) for name, own in words.items()}
    rows = [
        " ".join(f"{axis} {place}" for axis, place in zip(down, cell, strict=True))
        for cell in np.ndindex(table.shape[:-1])
    ]
    names = [f"{row} {across} {place}".strip() for row in rows for place in range(shape[1])]
    sides = (" ".join(down) or "table", across)
    return heatmap(metrics, words=words, axes=sides, rows=rows, names=names, **about)


def scatter_view(first: Any, second: Any, column: str, other: str) -> View:
    """Show one column of each of two tables, head by head.

    Raises:
        ValueError: for tables over other grids.
    """
    if first.shape != second.shape or first.frame.index.names != second.frame.index.names:
        raise ValueError(
            f"against: expected a table over {list(first.frame.index.names[1:])} of shape {list(first.shape)}, "
            f"got one over {list(second.frame.index.names[1:])} of shape {list(second.shape)}"
        )
    across, words, units = _columns(first, column)
    up, others, more = _columns(second, other)
    names = [f"{first.name} {column}", f"{second.name} {other}"]
    if names[0] == names[1]:
        names = [f"{name} ({part})" for name, part in zip(names, ("first", "second"), strict=True)]
    shape = (first.shape[0], -1)
    metrics = {
        name: {part: own.reshape(shape) for part, own in parts[key].items()}
        for name, parts, key in zip(names, (across, up), (column, other), strict=True)
    }
    both = pd.DataFrame({name: parts["value"].reshape(-1) for name, parts in metrics.items()}).dropna()
    correlation = both.rank().corr().to_numpy()[0, 1] if len(both) > 2 else np.nan
    note = f"Spearman's rank correlation over {len(both)} cells: {correlation:.2f}"
    axes = [str(axis) for axis in first.frame.index.names[1:]]
    cells = None if axes == ["layer", "head"] else [_cell(axes, place) for place in np.ndindex(first.shape)]
    roles = {name: own.reshape(shape) for name, own in {**others, **words}.items()}
    return scatter(
        metrics,
        words=roles,
        units=dict(zip(names, (units.get(column, ""), more.get(other, "")), strict=True)),
        names=cells,
        diagonal=column == other,
        stack=first.stack,
        title=f"{names[1]} against {names[0]}",
        note=note,
        **_level(first),
    )


def _cell(axes: list[str], place: tuple[int, ...]) -> str:
    return " ".join(f"{axis} {number}" for axis, number in zip(axes, place, strict=True))


def _columns(
    table: Any, column: str
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], Mapping[str, str]]:
    """Return all columns of numbers with their parts, the chosen one first; all columns of words; units."""
    frame, single = table.frame, len(table.metrics) == 1
    own = {name: OF_METRIC[name] for name in OF_METRIC if single and name in frame}
    numbers: dict[str, dict[str, np.ndarray]] = {}
    words: dict[str, np.ndarray] = {}
    bounds = {f"{metric}{end}" for metric in table.metrics for end in ("_low", "_high", "_n")}
    for name in dict.fromkeys([column, *table.metrics, *map(str, frame)]):
        if name in bounds or (name in own and name != column) or name == "model":
            continue
        if not pd.api.types.is_numeric_dtype(frame[name]):
            words[name] = table.grid(name).astype(str)
            continue
        parts = {"value": table.grid(name).astype(np.float64)}
        for end in ("low", "high", "n"):
            if name in table.metrics and f"{name}_{end}" in frame:
                parts[end] = table.grid(f"{name}_{end}").astype(np.float64)
        ranks = frame[[name]].rank(ascending=False, method="min")
        parts["rank"] = ranks.to_numpy(np.float64).reshape(table.shape)
        if name in table.metrics:
            parts |= {part: table.grid(extra).astype(np.float64) for extra, part in own.items()}
        numbers[name] = parts
    if "roles" in words:  # all roles of a head, of which "role" is the first
        words = {"role": words.pop("roles"), **{name: texts for name, texts in words.items() if name != "role"}}
    return numbers, words, table.provenance.get("units", {})


def _level(table: Any) -> dict[str, Any]:
    level = table.provenance.get("level")
    return {"level": float(level)} if isinstance(level, int | float) else {}


def _title(table: Any) -> str:
    model = table.provenance.get("model")
    return f"{table.name} of {model}" if isinstance(model, str) else table.name


def _curves(table: Any, axis: str, column: str) -> View:
    ends = {"value": "", "low": "_low", "high": "_high"}
    lines: dict[str, Any] = {
        metric: {part: table.grid(f"{metric}{end}") for part, end in ends.items()} for metric in table.metrics
    }
    lines.setdefault(column, table.grid(column))
    # Metrics of several units, such as a rank beside a probability, share no axis.
    units = table.provenance.get("units", {})
    panels = {f"{name} ({units[name]})" if name in units else name: [name] for name in [column, *table.metrics]}
    return curves(np.arange(table.shape[0]), lines, x_label=axis, panels=panels, title=_title(table))


def _edges(table: Any, column: str) -> View:
    """Show the edges of a table over senders and receivers as a graph."""
    names = [table.grid(name) for name in ("sender_node", "receiver_node") if name in table.frame]
    if len(names) != 2:
        raise ValueError(f"{table.name} names no nodes: a graph needs the columns sender_node and receiver_node")
    nodes, senders, receivers, kinds = component_graph([*names[0][:, 0]], [*names[1][0]])
    values_UV = table.grid(column).astype(np.float64)
    places = np.argwhere(~np.isnan(values_UV))
    at = tuple(places.T)
    bounds: dict[str, Any] = {}
    if column in table.metrics:
        bounds = {end: table.grid(f"{column}_{end}").astype(np.float64)[at] for end in ("low", "high")}
    return graph(
        nodes,
        np.array([[senders[u], receivers[v]] for u, v in places], int).reshape(-1, 2),
        values_UV[at],
        **bounds,
        kinds=[kinds[v] for _, v in places],
        label=column,
        stack=table.stack,
        title=_title(table),
    )
