"""Measures: numbers of heads' patterns, weights, outputs and likeness, and what an answer rests on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ("direct", "in_context_learning", "patterns", "relevance", "similarity", "weights")
)
