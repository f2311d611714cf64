"""Heads beside what is known of words: relations, trees, mentions."""
