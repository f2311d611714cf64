"""Patterns of every head over checkpoints of a training."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ...execution.resources import Options
from ...measure.patterns.scoring import measure
from ...models.load import load
from ...models.model import Model
from ..sources import Inputs
from .words_of_numbers import label_of

Loader = Callable[[str], Model]


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints of a folder, each a folder whose name ends in its step, sorted by step.

    Raises:
        FileNotFoundError: for a folder that is not there.
        ValueError: for a folder with fewer than two checkpoints, or two of one step.
    """
    if not folder.expanduser().is_dir():
        raise FileNotFoundError(f"{folder} is no folder of checkpoints")
    ending = [(re.search(r"(\d+)$", path.name), path) for path in folder.expanduser().iterdir() if path.is_dir()]
    steps = sorted((int(match.group(1)), path) for match, path in ending if match is not None)
    if len(steps) < 2 or len({step for step, _ in steps}) < len(steps):
        names = ", ".join(path.name for _, path in steps) or "none"
        raise ValueError(
            f"{folder}: expected two folders or more that each hold a model and end in their step, such as "
            f"checkpoint-500; got {names}"
        )
    return steps


def history(
    checkpoints: Sequence[tuple[int, Path]],
    shape: tuple[int, int],
    inputs: Inputs,
    metrics: Sequence[str],
    repeated: Sequence[str],
    load_model: Loader = load,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Measure every head of each checkpoint on the same inputs.

    Args:
        shape: layers and heads that every checkpoint must have.
        metrics, repeated: metrics on natural inputs, and on random tokens said twice where there are any.

    Returns:
        "steps", and under "columns" for each metric its `values`, `low` and `high` `[steps,L,N]`.

    Raises:
        ValueError: for a checkpoint of other heads.
    """
    grids: dict[str, list[np.ndarray]] = {}
    for step, path in checkpoints:
        model = load_model(str(path))
        stack = model.stack(options.get("stack"))
        if (stack.layers, stack.heads) != tuple(shape):
            raise ValueError(
                f"{path}: expected {shape[0]} layers of {shape[1]} heads as the model has, got {stack.layers} of "
                f"{stack.heads} (step {step})"
            )
        tables = [measure(model, inputs.batches, list(metrics), **options)]
        if inputs.repeats is not None:
            tables.append(measure(model, [inputs.repeats.batch], list(repeated), **options))
        for table in tables:
            for name in table.metrics:
                grids.setdefault(name, []).append(
                    np.stack([table.grid(f"{name}{end}").astype(float) for end in ("", "_low", "_high")])
                )
    columns = []
    for name, parts in grids.items():
        values, low, high = np.stack(parts, axis=1)
        columns.append({"name": name, "label": label_of(name), "values": values, "low": low, "high": high})
    return {"steps": [step for step, _ in checkpoints], "columns": columns}
