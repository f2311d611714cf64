"""The best head of a table of probes: chosen on half of the test's documents, with its numbers on the others."""

from typing import Any

import jaxheads as jh

NAMES = ("accuracy", "control", "selectivity", "majority", "lexical", "gain", "unseen")
"""Columns of probes."""


def best_head(table: jh.HeadTable, metric: str, seed: int) -> dict[str, Any]:
    """Return the best head by a metric, with its numbers and their intervals on the documents that did not choose."""
    best = jh.held_out(table, metric, n=1, seed=seed)
    where: Any = best.index[0]
    row: dict[str, Any] = {"head": f"L{where[1]}H{where[2]}", "optimism": float(best["optimism"].iloc[0])}
    for name in NAMES:
        if name in table.metrics:
            held = jh.held_out(table, name, n=len(table.frame), seed=seed).loc[where]
            row |= {f"{name}{end}": float(held[f"{name}{end}"]) for end in ("", "_low", "_high")}
    return row | {"documents": int(best[f"{metric}_n"].iloc[0])}
