"""Which inputs and which heads an answer rests on: rollout, flow, gradients, layer-wise relevance, and how faithful."""
