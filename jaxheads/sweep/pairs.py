"""Inputs of sweeps: a batch or a stream of batches, a pair of batches or a stream of pairs, each with its objective."""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from ..arguments import check_kind
from ..checks import one_of
from ..models.inputs.batch import Batch, Texts
from ..models.model import Model
from ..models.stack import Stack
from ..objectives import Objective
from .cached_run import start_column

Inputs = Batch | Iterable[Batch] | Iterable[tuple[Batch, Objective]] | Texts
Pair = tuple[Batch, Batch] | tuple[Batch, Batch, Objective]

Direction = Literal["denoising", "noising"]
DIRECTIONS = ("denoising", "noising")


def inputs(batches: Inputs, objective: Objective | None) -> Iterator[tuple[Batch, Objective]]:
    """Yield each batch with its objective: its own, if it brings one, else the common one.

    Raises:
        ValueError: where there is neither.
    """
    for number, entry in enumerate([batches] if isinstance(batches, Batch) else batches):
        check_kind(f"batch[{number}]", entry, Batch | tuple[Batch, Objective])
        batch, own = entry if isinstance(entry, tuple) else (entry, objective)
        if own is None:
            raise ValueError("an objective is needed: give one for all, or with each batch of a stream")
        yield batch, own


def pairs(
    clean: Batch | Iterable[Pair], corrupt: Batch | None, objective: Objective | None
) -> Iterator[tuple[Batch, Batch, Objective]]:
    """Yield one pair, or each of a stream, with its objective: its own, if it brings one, else the common one.

    Raises:
        ValueError: where a batch or an objective is missing, or a corrupt batch is given beside a stream.
    """
    if isinstance(clean, Batch):
        if corrupt is None or objective is None:
            raise ValueError("patching needs a clean batch, a corrupt one and an objective")
        yield *_share_clusters(clean, corrupt), objective
        return
    if corrupt is not None:
        raise ValueError("a stream gives pairs (clean, corrupt): leave corrupt out")
    for number, pair in enumerate(clean):
        check_kind(f"clean[{number}]", pair, Pair)
        own = pair[2] if len(pair) > 2 else objective
        if own is None:
            raise ValueError("an objective is needed: give one for all, or with each pair of a stream")
        yield *_share_clusters(pair[0], pair[1]), own


def _share_clusters(clean: Batch, corrupt: Batch) -> tuple[Batch, Batch]:
    """Return both batches with the clusters of either; raises ValueError where they differ."""
    labels = [np.asarray(batch.clusters) for batch in (clean, corrupt) if batch.clusters is not None]
    if not labels or len(clean) != len(corrupt):
        return clean, corrupt
    if not np.array_equal(labels[0], labels[-1]):
        raise ValueError("clean and corrupt must have the same clusters: both runs of a pair are one example")
    return clean.clustered(labels[0]), corrupt.clustered(labels[0])


def base_and_other(direction: str, clean: Batch, corrupt: Batch) -> tuple[Batch, Batch]:
    """Return the batch whose run is edited, and the one that values come from; raises ValueError for a direction.

    "denoising" puts clean values into the corrupt run, "noising" corrupt values into the clean run.
    """
    one_of("direction", direction, DIRECTIONS)
    return (corrupt, clean) if direction == "denoising" else (clean, corrupt)


def check_pair(model: Model, clean: Batch, corrupt: Batch, objective: Objective | None = None) -> None:
    """Raise ValueError unless both batches can go through the model and differ in their tokens only.

    Packed texts are refused, unless the objective has put them there for both runs alike.
    """
    packed = getattr(objective, "counterparts", False)
    model.check(clean, packed=packed)
    model.check(corrupt, packed=packed)
    first, second = (None if batch.segments is None else np.asarray(batch.segments) for batch in (clean, corrupt))
    if packed and not np.array_equal(first, second):  # pyright: ignore[reportArgumentType]  # None equals None
        raise ValueError("clean and corrupt: both runs of a pair must hold texts of the same lengths")
    # Values go from each position to its counterpart: positions must mean the same in both batches.
    for axis in {stack.queries for stack in model.network.streams}:
        ours, others = axis.of(clean), axis.of(corrupt)
        if ours.shape != others.shape or not np.array_equal(ours.mask, others.mask):
            raise ValueError(
                f"clean and corrupt must have the same shape and the same padding, so that each of the {axis.kind} "
                f"has its counterpart; got {ours.shape} and {others.shape} with "
                f"{np.asarray(ours.lengths).tolist()[:8]} and {np.asarray(others.lengths).tolist()[:8]} {axis.kind}"
            )


def first_difference(stack: Stack, clean: Batch, corrupt: Batch) -> int:
    """Return the first column of a causal stack at which any example differs; the number of columns where none does.

    0 where the stack sees more than its own tokens, and those differ.
    """
    axis = stack.queries
    # Inputs of other streams reach every position through cross-attention.
    fields = [field for field in ("tokens", "targets", "pixels", "features") if field != axis.kind]
    if any(not np.array_equal(getattr(clean, field), getattr(corrupt, field)) for field in fields):
        return 0
    ours, others = axis.of(clean), axis.of(corrupt)
    differs_BT = np.asarray(ours.ids) != np.asarray(others.ids)
    if axis.kind == "tokens":
        differs_BT |= np.asarray(clean.token_types) != np.asarray(corrupt.token_types)
    columns = np.flatnonzero((differs_BT & np.asarray(ours.mask)).any(axis=0))
    return int(columns[0]) if columns.size else ours.shape[1]


def first_change(stack: Stack, clean: Batch, corrupt: Batch) -> int:
    """Return the first column that any value of the other run can change, rounded down to a start column."""
    if not stack.causal:
        return 0
    T = stack.queries.count(clean)
    return int(start_column(min(first_difference(stack, clean, corrupt), T - 1), T))
