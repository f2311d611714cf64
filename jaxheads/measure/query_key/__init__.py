"""Reasons why a head looks where it looks: its scores by what wrote queries and keys, and their contrasts."""
