"""Views of circuits: edges as a graph, heads as a grid.

Dimension key: U senders, V receivers, L layers, N heads.
"""

import numpy as np

from ...tables import HeadTable
from ...view import View, graph, heatmap
from ...view.components import component_graph
from .components import Components


def circuit_view(
    kept: np.ndarray,
    faithfulness: HeadTable,
    components: Components,
    classes: np.ndarray,
    minimality: HeadTable | None,
) -> View:
    """Show a circuit's parts, each with its minimality where a table has it.

    Raises:
        ValueError: for a table over another grid.
    """
    if minimality is not None and (minimality.shape != kept.shape or "minimality" not in minimality.metrics):
        raise ValueError(f"minimality: expected this circuit's own, over {list(kept.shape)}, got {minimality!r}")
    share, low, high = (float(faithfulness.grid(f"faithfulness{end}")[0]) for end in ("", "_low", "_high"))
    interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite([low, high]).all() else ""
    note = f"Faithfulness {share:.2f}{interval}: 1 does what the model does, 0 what nothing does."
    title = f"A circuit of {int(kept.sum())} {components.kind}"
    label = "kept" if minimality is None else "minimality"
    parts = {"value": np.where(kept, 1.0, np.nan)}
    if minimality is not None:
        parts = {end: minimality.grid(f"minimality{name}") for end, name in _BOUNDS.items()}
    if components.graph is None:
        return heatmap(
            {label: parts},
            words={"class": classes},
            stack=components.stack.name,
            title=title,
            note=note,
            missing="not in the circuit",
        )
    nodes, senders, receivers, kinds = component_graph(components.graph.senders, components.graph.receivers)
    places = np.argwhere(kept)
    at = tuple(places.T)
    return graph(
        nodes,
        np.array([[senders[u], receivers[v]] for u, v in places], int).reshape(-1, 2),
        *(parts[end][at] for end in parts),
        kinds=[kinds[v] for _, v in places],
        label=label,
        first=len(places),
        stack=components.stack.name,
        title=title,
        note=note,
    )


_BOUNDS = {"value": "", "low": "_low", "high": "_high"}
"""Parts of a metric by the ends of its columns."""
