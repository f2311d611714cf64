"""Still pictures of views, by matplotlib."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import color, heatmap, panels
from ..plots.colors import DIVERGING, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plots import Picture

NAMED = 48
"""Tokens up to which a still picture names each."""

LINE = 96
"""Characters in a line of a text that is drawn."""


def plain(text: str) -> str:
    """Return a text as matplotlib shows it: without formulas, and with line ends that can be seen."""
    return text.replace("$", r"\$").replace("\n", "⏎").replace("\t", "⇥")


def attention_still(
    patterns_GTS: np.ndarray, heads: Sequence[tuple[int, int]], queries: Sequence[str], keys: Sequence[str], title: str
) -> "Picture":
    """Draw one head as a matrix with its tokens, or many as thumbnails."""
    if len(heads) == 1:
        few = max(len(queries), len(keys)) <= NAMED
        names = ([plain(text) for text in queries], [plain(text) for text in keys]) if few else ("query", "key")
        label = title or "layer {} head {}".format(*heads[0])
        panel = heatmap(
            patterns_GTS[0], title=plain(label), label="weight", rows=names[0], columns=names[1], limits=(0, 1)
        )
        return panel.picture
    columns = (
        max(sum(layer == own for own, _ in heads) for layer, _ in heads)
        if _is_grid(heads)
        else math.ceil(math.sqrt(len(heads)))
    )
    rows = math.ceil(len(heads) / columns)
    picture, axes = panels(rows * columns, (min(1.1 * columns, 14), min(1.2 * rows + 0.3, 16)), rows)
    for ax in axes[len(heads) :]:
        ax.set_axis_off()
    for ax, pattern_TS, (layer, head) in zip(axes, patterns_GTS, heads, strict=False):
        ax.imshow(np.sqrt(pattern_TS), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set_title(f"{layer}.{head}", fontsize=7, pad=2)
        _bare(ax)
    picture.suptitle(plain(title), fontsize=9)
    return picture


def _is_grid(heads: Sequence[tuple[int, int]]) -> bool:
    """Whether heads are whole layers of equal length, one after the other."""
    counts = [sum(layer == own for own, _ in heads) for layer in dict.fromkeys(layer for layer, _ in heads)]
    return len(set(counts)) == 1 and [layer for layer, _ in heads] == sorted(layer for layer, _ in heads)


def _bare(ax: "Axes") -> None:
    ax.set_xticks([])
    ax.set_yticks([])


def heatmap_still(
    parts: Mapping[str, np.ndarray], label: str, title: str, rows: str | Sequence[str], columns: str | Sequence[str]
) -> "Picture":
    """Draw a grid of numbers, hatched where the interval includes 0."""
    from matplotlib.patches import Rectangle

    down, across = (own if isinstance(own, str) else [plain(name) for name in own] for own in (rows, columns))
    ax = heatmap(parts["value"], title=plain(title), label=plain(label), rows=down, columns=across)
    if {"low", "high"} <= set(parts):
        for row, column in np.argwhere((parts["low"] <= 0) & (parts["high"] >= 0)):
            ax.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", linewidth=0, edgecolor="0.45")
            )
    return ax.picture


def scatter_still(
    metrics: Sequence[Mapping[str, np.ndarray]],
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    *,
    diagonal: bool,
) -> "Picture":
    """Draw two numbers of heads against each other, with their intervals and the names of those that lie far out."""
    picture, [ax] = panels(1, (6, 5))
    x, y = (own["value"].reshape(-1) for own in metrics)
    for own, error in zip(metrics, ("xerr", "yerr"), strict=True):
        if {"low", "high"} <= set(own):
            low, high = (own[part].reshape(-1) for part in ("low", "high"))
            middle = own["value"].reshape(-1)
            sizes: Any = {error: np.nan_to_num([np.maximum(middle - low, 0), np.maximum(high - middle, 0)])}
            ax.errorbar(x, y, **sizes, fmt="none", ecolor="0.75", linewidth=0.8)
    ax.plot(x, y, "o", markersize=4, color=color(0))
    if diagonal:
        ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--")
    known = np.isfinite(x) & np.isfinite(y)
    if known.any():
        far = sum(np.abs(own - np.median(own[known])) / (np.ptp(own[known]) or 1.0) for own in (x, y))
        for at in np.argsort(-np.nan_to_num(far, nan=-1.0), kind="stable")[: min(8, known.sum())]:
            ax.annotate(plain(str(names[at])), (x[at], y[at]), fontsize=7, xytext=(4, 3), textcoords="offset points")
    ax.set(title=plain(title), xlabel=plain(labels[0]), ylabel=plain(labels[1]))
    return picture


def curves_still(
    x: np.ndarray,
    lines: Mapping[str, Mapping[str, np.ndarray]],
    marks: Mapping[str, np.ndarray],
    levels: Mapping[str, float],
    labels: tuple[str, str],
    title: str,
    *,
    log: bool,
) -> "Picture":
    """Draw curves with their intervals, runs, marks and levels."""
    picture, [ax] = panels(1, (6.5, 4.2))
    for number, (name, parts) in enumerate(lines.items()):
        if {"low", "high"} <= set(parts):
            ax.fill_between(x, parts["low"], parts["high"], color=color(number), alpha=0.18, linewidth=0)
        if "runs" in parts:
            ax.plot(x, parts["runs"], color=color(number), linewidth=0.6, alpha=0.5)
        ax.plot(x, parts["value"], color=color(number), linewidth=1.8, label=plain(name))
        for mark in marks.get(name, ()):
            if np.isfinite(mark):
                ax.axvline(mark, color=color(number), linewidth=0.8, linestyle=":")
    for name, level in levels.items():
        ax.axhline(level, color="0.6", linewidth=0.8, linestyle="--")
        ax.annotate(plain(name), (x[0], level), fontsize=7, va="bottom", color="0.4")
    if log:
        ax.set_xscale("log")
    ax.set(title=plain(title), xlabel=plain(labels[0]), ylabel=plain(labels[1]))
    ax.legend(fontsize=8)
    return picture


def matrix_still(
    values: np.ndarray,
    texts: Sequence[Sequence[str]] | None,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    title: str,
    axes: tuple[str, str],
) -> "Picture":
    """Draw a matrix, with a word in each cell where there are any."""
    few = max(len(rows), len(columns)) <= NAMED
    names = ([plain(own) for own in rows], [plain(own) for own in columns]) if few else axes
    ax = heatmap(values, title=plain(title), label=plain(label), rows=names[0], columns=names[1])
    ax.set(xlabel=plain(axes[1]), ylabel=plain(axes[0]))
    if texts is not None and few:
        [image] = ax.get_images()
        backgrounds = np.asarray(image.cmap(image.norm(values)))
        for (row, column), background in zip(np.ndindex(values.shape), backgrounds.reshape(-1, 4), strict=True):
            word, ink = plain(str(texts[row][column])[:10]), text_on(background)
            ax.text(column, row, word, ha="center", va="center", fontsize=5, color=ink, clip_on=True)
    return ax.picture


def tokens_still(texts: Sequence[Sequence[str]], values: Sequence[np.ndarray], label: str, title: str) -> "Picture":
    """Draw texts in lines, each token on its colour."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = np.concatenate([own[np.isfinite(own)] for own in values] or [np.zeros(0)])
    most = float(np.abs(known).max()) if known.size else 1.0
    signed = known.size > 0 and known.min() < 0
    norm = Normalize(-most if signed else 0, most or 1.0)
    colors = matplotlib.colormaps[DIVERGING if signed else "Blues"]
    lines = [line for own, numbers in zip(texts, values, strict=True) for line in _lines(own, numbers)]
    picture, [ax] = panels(1, (8, min(0.6 + 0.28 * len(lines), 16)))
    for row, line in enumerate(lines):
        for start, text, value in line:
            background = colors(norm(value))
            box = {"facecolor": background, "edgecolor": "none", "pad": 1.2}
            ax.text(start, row, text, fontsize=8, family="monospace", va="center", color=text_on(background), bbox=box)
    ax.set(xlim=(0, LINE), ylim=(len(lines) - 0.3, -0.7), title=plain(title))
    ax.set_axis_off()
    picture.colorbar(ScalarMappable(norm, colors), ax=ax, label=plain(label))
    return picture


def _lines(texts: Sequence[str], values: np.ndarray) -> list[list[tuple[int, str, float]]]:
    """Break a text into lines of tokens, each with its column."""
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for text, value in zip(texts, values, strict=True):
        if not np.isfinite(value):
            continue
        word = text.replace("\n", "⏎").replace("\t", "⇥") or "∅"
        if column and column + len(word) > LINE:
            lines.append([])
            column = 0
        lines[-1].append((column, word.replace("$", r"\$"), float(value)))
        column += len(word)
    return lines


def graph_still(
    nodes: Sequence[Mapping[str, Any]], edges: np.ndarray, values: np.ndarray, label: str, title: str
) -> "Picture":
    """Draw the nodes that have an edge, row by row, and the edges between them."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    ends = set(edges.reshape(-1).tolist())
    used = [number for number, node in enumerate(nodes) if number in ends or node.get("kept")]
    rows = sorted({nodes[number]["row"] for number in used})
    places: dict[int, tuple[float, int]] = {}
    for at, row in enumerate(rows):
        line = sorted((number for number in used if nodes[number]["row"] == row), key=lambda own: nodes[own]["column"])
        places |= {number: ((index + 0.5) / len(line), at) for index, number in enumerate(line)}
    picture, [ax] = panels(1, (8, min(1 + 0.55 * len(rows), 14)))
    most = float(np.abs(values).max()) or 1.0
    for (sender, receiver), value in zip(edges, values, strict=True):
        start, end = places[int(sender)], places[int(receiver)]
        dash, number = ("--", 0) if value < 0 else ("-", 1)
        width = 0.5 + 3 * abs(value) / most
        # An edge that passes rows goes round what may stand between.
        aside = 0.05 * max(0, abs(end[1] - start[1]) - 1) * (1 if start[0] + end[0] > 1 else -1)
        middle = (start[1] + end[1]) / 2
        points = [start, (start[0] + aside, middle), (end[0] + aside, middle), end]
        path = Path(points, [Path.MOVETO, *[Path.CURVE4] * 3])
        ax.add_patch(PathPatch(path, fill=False, linestyle=dash, edgecolor=color(number), linewidth=width, alpha=0.7))
    for number, (x, y) in places.items():
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.5"}
        name = plain(nodes[number].get("short") or nodes[number]["name"])
        ax.text(x, y, name, ha="center", va="center", fontsize=7, bbox=box, zorder=2)
    ax.set(
        xlim=(0, 1),
        ylim=(len(rows) - 0.5, -0.5),
        title=plain(title),
        xlabel=plain(f"{label}: solid above 0, dashed below"),
    )
    _bare(ax)
    return picture
