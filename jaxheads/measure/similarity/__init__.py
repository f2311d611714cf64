"""Similarity of heads: `compare_heads` and the comparisons it makes."""

from .comparisons import COMPARISONS, Comparison
from .redundancy import HeadPairs, compare_heads

__all__ = ["COMPARISONS", "Comparison", "HeadPairs", "compare_heads"]
