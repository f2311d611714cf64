"""Transformers in Flax NNX: attention, blocks, stacks, the families that use them, and loading their weights."""
