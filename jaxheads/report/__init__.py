"""Reports: all measures and ablations of a model at once, as pages for people."""

from .ablations import Ablation, ablations
from .inputs import prose, repeats
from .page import model_title

__all__ = ["Ablation", "ablations", "model_title", "prose", "repeats"]
