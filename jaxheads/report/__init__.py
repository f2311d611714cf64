"""Reports: all measures and ablations of a model at once, as pages for people."""

from .ablations import Ablation, ablations
from .inputs import prose, repeats

__all__ = ["Ablation", "ablations", "prose", "repeats"]
