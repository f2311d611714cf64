"""Good calls of what writes text, and of windows, for `tests/good_calls.py`."""

from typing import Any

import jaxheads as jh

from .good_values import batch, model

WRITING_CALLS: dict[str, dict[str, Any]] = {
    "generate": {"model": model, "batch": batch, "steps": 2, "sample": None, "stop": (), "capture": "z"},
    "written": {"score": "exact", "references": ["a"], "steps": 2, "stop": (), "seed": 0, "name": "a text"},
    "context_use": {"model": model, "batch": batch, "objective": jh.loss, "windows": [2], "sink": 1},
    "window": {"model": model, "heads": [(0, 1)], "recent": 3, "sink": 1},
    "Beams": {"count": 2, "length_penalty": 1.0},
    "Sampling": {"temperature": 1.0, "top_k": 2, "top_p": 0.9},
}
