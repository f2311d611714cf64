"""Samples of every head's patterns on a broad text, counts of where it looks, moments of its output."""
