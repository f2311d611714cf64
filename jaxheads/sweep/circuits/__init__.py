"""Circuits: which heads and edges do what the model does, how to find them, and how to judge them.

A circuit is kept and the rest is ablated (`circuit`, `keep_edges`); edges are patched by themselves (`patch_edges`) or
estimated (`edge_attribution`); circuits are searched for (`search_circuits`) and rankings judged (`faithfulness_curve`,
`auroc`). `Graph` names the senders, receivers and edges.
"""

from .attribution import edge_attribution, patch_edges
from .benchmark import FaithfulnessCurve, auroc, faithfulness_curve
from .circuit import Circuit, circuit
from .graph import Graph
from .keep_edges import keep_edges
from .search import FoundCircuits, search_circuits

__all__ = [
    "Circuit",
    "FaithfulnessCurve",
    "FoundCircuits",
    "Graph",
    "auroc",
    "circuit",
    "edge_attribution",
    "faithfulness_curve",
    "keep_edges",
    "patch_edges",
    "search_circuits",
]
