"""Portraits: all that is known of a stack's heads, for the page of a model and for HeadVis's directory."""

from .headvis import write_headvis
from .portrait import Portrait, portrait
from .tables import AtlasTables, read_atlas

__all__ = ["AtlasTables", "Portrait", "portrait", "read_atlas", "write_headvis"]
