"""jaxheads: what each attention head does, whether it matters, and how it came to do it."""

from . import edits, objectives
from .edits import freeze, gate, mix, patch_heads, replace_heads, steer, zero_heads
from .measure.measure import measure
from .measure.nulls import random_weights
from .measure.patterns import METRICS, Metric
from .measure.roles import Evidence, name_heads
from .models.batch import Batch
from .models.load import load
from .models.model import Model, Run, run
from .models.sites import SiteEdit
from .objectives import Objective, logit_difference, loss
from .sweep.ablate import ablate, cumulative, interactions
from .sweep.ask import plan
from .sweep.knock_out import knock_out
from .sweep.patch import patch
from .sweep.paths import all_paths, paths
from .tables import HeadTable

__all__ = [
    # a model, its inputs, one run
    "Batch",
    "Model",
    "Run",
    "load",
    "run",
    # edits are values
    "SiteEdit",
    "edits",
    "freeze",
    "gate",
    "mix",
    "patch_heads",
    "replace_heads",
    "steer",
    "zero_heads",
    # what heads do
    "METRICS",
    "Evidence",
    "Metric",
    "measure",
    "name_heads",
    "random_weights",
    # whether they matter
    "Objective",
    "ablate",
    "cumulative",
    "interactions",
    "knock_out",
    "patch",
    "paths",
    "all_paths",
    "plan",
    "logit_difference",
    "loss",
    "objectives",
    # answers
    "HeadTable",
]
