"""Readers of labelled text: treebanks, tagged words, bracketed trees, minimal pairs, tables."""
