"""Heads beside people: what attention shares with gaze and reading times, and how much a word surprises."""
