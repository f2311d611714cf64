"""Probes of every head's output, and what a changed property of a text moves in each head."""
