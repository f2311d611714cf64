"""Examples a piece at a time, and tables of what was found of each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...models.model import Model
from ...models.stack import Stack
from ...provenance import environment
from ...statistics import bootstrap_mean
from ...tables import Column, HeadTable

MOST = 64
"""Examples at a time, at most."""


def pieces_of(examples: int, bytes_each: int, memory: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of the examples of each piece, all of one length (the last is filled up with its last example), and how
    many of them are new."""
    most = int(np.clip(memory // max(bytes_each, 1), 1, MOST))
    size = -(-examples // -(-examples // most))
    for start in range(0, examples, size):
        yield np.minimum(np.arange(start, start + size), examples - 1), min(size, examples - start)


def direct_stacks(model: Model) -> tuple[Stack, ...]:
    """The stacks whose heads add to the stream that is read.

    Raises:
        ValueError: for layers that norm the stream itself: it is no sum then.
    """
    members = model.network.streams[-1].members
    for stack in members:
        if not stack.blocks.residual:
            raise ValueError(
                f"the {stack.name} of {model.name} norms the stream itself after adding to it (post-norm): what is "
                "read in the end is no sum over heads, whatever is held. Use jh.ablate, jh.patch or jh.attribute"
            )
    return members


def chosen_stack(model: Model, stack: str | None, members: Sequence[Stack]) -> Stack:
    """One of the stacks of the last stream.

    Raises:
        ValueError: for another, or none where there are several.
    """
    part = model.stack(stack)
    if part.name not in [member.name for member in members]:
        raise ValueError(
            f"the {part.name} of {model.name} writes into another stream than the one that is read, which it reaches "
            "through cross-attention only; directly there is nothing"
        )
    return part


def head_table(
    name: str,
    model: Model,
    stack: str,
    values: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    *,
    axes: Sequence[str] = ("layer", "head"),
    level: float,
    seed: int,
) -> HeadTable:
    """Means over examples of `[E, *grid]`, with their intervals; what is not finite counts as missing."""
    columns, lost = {}, 0
    for column, each in values.items():
        lost += int(np.isinf(each).sum())
        kept = np.where(np.isfinite(each), each, np.nan)
        columns[column] = Column(*bootstrap_mean(kept, level=level, seed=seed), kept)
    about = {"model": model.name, "weights": model.identity(), **about, "level": level, "seed": seed}
    about |= {"not_finite_count": lost, **environment()}
    return HeadTable.from_columns(name, stack, columns, about, axes=axes, squeeze=len(columns) == 1)
