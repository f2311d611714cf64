"""Exact sweeps: heads ablated, patched, knocked out or given another's pattern, equal to whole forward passes."""
