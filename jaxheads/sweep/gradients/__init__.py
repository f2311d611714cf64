"""Gradients: every cell's effect estimated from a few backward passes."""
