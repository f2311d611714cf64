"""Reports: all measures and ablations of a model at once, as pages for people."""

from .inputs import Ablation, ablations, prose, repeats

__all__ = ["Ablation", "ablations", "prose", "repeats"]
