"""Which inputs and which heads an answer rests on: rollout, flow, gradients, layer-wise relevance, and how faithful."""

from .flow import flows
from .rollout import rolled_out, with_residual

__all__ = ["flows", "rolled_out", "with_residual"]
