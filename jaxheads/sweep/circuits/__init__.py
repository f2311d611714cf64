"""Circuits: the graph of nodes and edges, what is kept of it, and how good that is."""
