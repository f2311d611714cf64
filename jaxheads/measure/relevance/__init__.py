"""Relevance of inputs and heads to an answer: rollout, flow, gradients, layer-wise propagation, and faithfulness."""

from .flow import flows
from .rollout import rolled_out, with_residual

__all__ = ["flows", "rolled_out", "with_residual"]
