"""Relevance of inputs and heads to an answer: rollout, flow, gradients, layer-wise propagation, and faithfulness."""
