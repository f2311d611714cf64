"""Views of graphs: what is sent from which component to which.

Dimension key: V nodes, E edges.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked
from .arrays import packed
from .stills import graph_still
from .view import View

if TYPE_CHECKING:
    from ..plots import Picture

MOST_EDGES = 2000
"""Edges that a file holds: the strongest."""


@checked(first=at_least(1))
def graph(
    nodes: Sequence[Mapping[str, Any]],
    edges: ArrayLike,
    values: ArrayLike,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    *,
    kinds: Sequence[str] | None = None,
    label: str = "value",
    first: int = 30,
    stack: str = "",
    title: str = "",
    note: str = "",
) -> View:
    """Show a graph in the order in which its nodes write, with its strongest edges; a slider shows more of them.

    Args:
        nodes: each a mapping with its `name` and its `row` from 0, the row that writes first; further `column`, its
            place in the row; `short`, a shorter name; `layer` and `head` of a head; `note`, such as its role; `kept`,
            whether it is drawn without an edge as well.
        edges: numbers of the sender and the receiver, integers `[E,2]`.
        values: of each edge, `[E]`, with the bounds of their intervals. Edges that are NaN are left out.
        kinds: of each edge, what it is read as, such as "q", "k" or "v".
        label: what the values are.
        first: number of edges that are shown at first.
        stack: name of the heads' stack.

    Raises:
        ValueError: for no node or edge, a node without a name or row, an edge between nodes that are not there, or
            values of another number.
    """
    if not nodes or not all({"name", "row"} <= set(node) for node in nodes):
        raise ValueError("nodes: expected mappings with a name and a row, one or more")
    ends, numbers = np.asarray(edges), np.asarray(values, np.float64)
    if ends.dtype.kind not in "iu" or ends.shape != (*numbers.shape, 2) or numbers.ndim != 1:
        raise ValueError(
            f"edges: expected integers [edges,2] and values [edges], got {list(ends.shape)} and {list(numbers.shape)}"
        )
    if ends.size and not 0 <= ends.min() <= ends.max() < len(nodes):
        raise ValueError(f"edges: expected numbers of nodes in 0..{len(nodes) - 1}, got {ends.min()}..{ends.max()}")
    arrays = {"values": numbers}
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            arrays[name] = np.asarray(bound, np.float64)
            if arrays[name].shape != numbers.shape:
                raise ValueError(f"{name}: expected {list(numbers.shape)}, got {list(arrays[name].shape)}")
    if kinds is not None and len(kinds) != len(numbers):
        raise ValueError(f"kinds: expected {len(numbers)}, one an edge, got {len(kinds)}")
    order = np.argsort(-np.abs(np.nan_to_num(numbers)), kind="stable")
    order = order[~np.isnan(numbers[order])][:MOST_EDGES]
    if not len(order):
        raise ValueError("edges: expected at least one with a value, got none")
    listed = [{"column": number, **node} for number, node in enumerate(nodes)]
    payload = {
        "kind": "graph",
        "title": title,
        "note": note,
        "stack": stack,
        "label": label,
        "nodes": listed,
        "edges": ends[order].tolist(),
        "kinds": None if kinds is None else [str(kinds[edge]) for edge in order],
        "first": min(first, len(order)),
        **{name: packed(own[order], 32) for name, own in arrays.items()},
    }

    def draw() -> "Picture":
        strongest = order[:first]
        return graph_still(listed, ends[strongest], numbers[strongest], label, title)

    return View(payload, draw, 720)
