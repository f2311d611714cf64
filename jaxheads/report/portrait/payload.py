"""The page's data: portraits as plain values and packed arrays, which the page's script draws.

Dimension key: E examples, L layers, N heads, t and s the positions that patterns are shown at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...view.arrays import packed
from .exhibits import Exhibit
from .portrait import Portrait
from .tables import columns_of, effects_of, roles_of

EXACT, FINE = 32, 16
"""Bits of numbers that are read, and of the dots of examples."""


def page_payload(portraits: Sequence[Portrait], made: str = "") -> dict[str, Any]:
    """Return the data of a page of one or more stacks: of one model, or of two side by side.

    Args:
        made: the command that made the page, in words.

    Raises:
        ValueError: for no portrait.
    """
    if not portraits:
        raise ValueError("portraits: expected at least one, got none")
    models = list(dict.fromkeys(portrait.model for portrait in portraits))
    return {
        "kind": "heads",
        "made": made,
        "models": models,
        "panels": [panel_of(portrait) for portrait in portraits],
    }


def page_title(portraits: Sequence[Portrait]) -> str:
    """Return the title of a page: the heads of which models."""
    return f"The heads of {' and '.join(dict.fromkeys(portrait.title for portrait in portraits))}"


def panel_of(portrait: Portrait) -> dict[str, Any]:
    """Return the data of one stack."""
    about = portrait.tables.table.provenance
    return {
        "model": portrait.model,
        "title": portrait.title,
        "stack": portrait.stack,
        "stacks": portrait.stacks,
        "shape": list(portrait.shape),
        "kind": portrait.kind,
        "inputs": " ".join(str(about.get("inputs", about.get("text", ""))).split()),
        "weights": about["weights"],
        "seed": about["seed"],
        "level": 0.95,
        "columns": [_packed_fields(column) for column in columns_of(portrait.tables.table)],
        "roles": _packed_roles(roles_of(portrait.tables.table)),
        "effects": [_effect(effect) for effect in effects_of(portrait.tables)],
        "exhibits": [_exhibit(exhibit) for exhibit in portrait.exhibits],
        "texts": portrait.texts,
        "contexts": portrait.contexts,
        "tokens": [
            [[entry["token"], round(entry["share"], 4), round(entry["usual"], 4)] for entry in head]
            for head in portrait.tokens
        ],
        "alike": [_alike(head) for head in portrait.alike],
        "history": None if portrait.history is None else _history(portrait.history),
        "leftOut": list(portrait.left_out),
    }


def _packed_fields(fields: Mapping[str, Any], bits: Any = EXACT) -> dict[str, Any]:
    """Return fields with arrays packed; others stay as they are."""
    return {name: packed(value, bits) if isinstance(value, np.ndarray) else value for name, value in fields.items()}


def _packed_roles(roles: Mapping[str, Any]) -> dict[str, Any]:
    return {**roles, "tested": _packed_fields(roles["tested"])}


def _effect(effect: Mapping[str, Any]) -> dict[str, Any]:
    stages = []
    for stage in effect["stages"]:
        fields = _packed_fields({name: value for name, value in stage.items() if name != "examples"})
        examples = stage["examples"]
        # The head comes first: the page reads the examples of one head.
        by_head = None if examples is None else packed(np.moveaxis(examples, 0, -1), FINE)
        stages.append({**fields, "examples": by_head})
    return {**effect, "stages": stages}


def _exhibit(exhibit: Exhibit) -> dict[str, Any]:
    pictures = {}
    for side, shape in exhibit.shape.items():
        before = len(getattr(exhibit, side)) - shape[0] * shape[1]
        words = {"queries": "places that look", "keys": "places that are looked at"}[side]
        pictures[side] = {
            "source": exhibit.picture,
            "grid": list(shape),
            "before": before,
            "words": words,
            "width": 224,
        }
    return {
        "title": exhibit.title,
        "queries": exhibit.queries,
        "keys": exhibit.keys,
        "self": exhibit.queries == exhibit.keys,
        "pictures": pictures,
        "pattern": packed(np.clip(exhibit.patterns, 0, 1), 8, power=2.0),
    }


def _alike(head: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the neighbours of one head as layer, head, similarity, its interval, number of inputs."""
    return [
        [other["layer"], other["head"], *(round(other[name], 3) for name in ("value", "low", "high")), other["n"]]
        for other in head
    ]


def _history(history: Mapping[str, Any]) -> dict[str, Any]:
    # The head comes first, then the steps.
    columns = [
        {name: np.moveaxis(value, 0, -1) if isinstance(value, np.ndarray) else value for name, value in column.items()}
        for column in history["columns"]
    ]
    return {"steps": history["steps"], "columns": [_packed_fields(column) for column in columns]}
