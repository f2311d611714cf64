"""Results as tables: one row a head, with intervals, per-example values and provenance."""

from .table import Column, HeadTable, grid_index

__all__ = ["Column", "HeadTable", "grid_index"]
