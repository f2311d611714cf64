"""Pictures of heads: each shows itself in a notebook, and `.save("name.png")` or `.save("name.svg")` writes it."""

from typing import TYPE_CHECKING, Any

from .colors import PALETTE, color
from .curves import draw_runs, evolution
from .heatmaps import heatmap
from .panels import panels
from .with_intervals import intervals

if TYPE_CHECKING:
    from .picture import Panel, Picture

__all__ = ["PALETTE", "Panel", "Picture", "color", "draw_runs", "evolution", "heatmap", "intervals", "panels"]


def __getattr__(name: str) -> Any:
    if name in ("Panel", "Picture"):  # their base classes take a while to import
        from . import picture

        return getattr(picture, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
