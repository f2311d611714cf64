"""Still pictures of views, by matplotlib."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..plots import heatmap, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plots import Picture

NAMED = 48
"""Tokens up to which a still picture names each."""


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

    rows, columns = (own if isinstance(own, str) else [plain(name) for name in own] for own in (rows, columns))
    ax = heatmap(parts["value"], title=plain(title), label=plain(label), rows=rows, columns=columns)
    if {"low", "high"} <= set(parts):
        for row, column in np.argwhere((parts["low"] <= 0) & (parts["high"] >= 0)):
            ax.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", linewidth=0, edgecolor="0.45")
            )
    return ax.picture
