"""The training lab: train many small models at once, and measure their heads as they specialise."""

from ..models.network import Network
from ..plots import evolution
from .disagreement import disagreement, li_penalty
from .gates import learn_gates
from .llc import head_only, llc
from .loop import Trained, train
from .monitor import Trace, Watch, ablation_losses, head_scores, trace
from .objective import scores
from .onset import onset, order, phase_change
from .prune import (
    gated_scores,
    head_importance,
    head_savings,
    merge_kv_heads,
    pruning_curve,
    pruning_order,
    remove_heads,
)
from .runs import adamw, grid, log_spaced

__all__ = [
    "Network",
    "Trace",
    "Trained",
    "Watch",
    "ablation_losses",
    "adamw",
    "disagreement",
    "evolution",
    "gated_scores",
    "grid",
    "head_importance",
    "head_savings",
    "head_only",
    "head_scores",
    "learn_gates",
    "li_penalty",
    "llc",
    "log_spaced",
    "merge_kv_heads",
    "onset",
    "order",
    "phase_change",
    "pruning_curve",
    "pruning_order",
    "remove_heads",
    "scores",
    "trace",
    "train",
]
