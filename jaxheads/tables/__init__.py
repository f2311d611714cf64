"""Results as tables: one row a head, with intervals, per-example values and provenance."""

from .counts import footnote, marked, marked_count
from .table import Column, HeadTable, grid_index

__all__ = ["Column", "HeadTable", "footnote", "grid_index", "marked", "marked_count"]
