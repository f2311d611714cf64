"""jaxheads: what each attention head does, whether it matters, and how it came to do it."""

from . import edits
from .edits import freeze, gate, mix, patch, replace_heads, steer, zero_heads
from .models.batch import Batch
from .models.load import load
from .models.model import Model, Run, run
from .models.sites import SiteEdit
from .sweep.ablate import ablate
from .objectives import logit_difference, loss

__all__ = [
    "ablate",
    "Batch",
    "Model",
    "Run",
    "SiteEdit",
    "edits",
    "freeze",
    "gate",
    "load",
    "logit_difference",
    "loss",
    "mix",
    "patch",
    "replace_heads",
    "run",
    "steer",
    "zero_heads",
]
