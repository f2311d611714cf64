"""Streams of batches: what `measure` and `compare_heads` take in place of a single batch."""

from collections.abc import Iterable, Iterator

import numpy as np

from ..models.inputs.batch import Batch, Texts
from ..models.model import Model
from ..models.stack import Stack

Batches = Batch | Iterable[Batch] | Texts


def each_batch(batches: Batches, name: str) -> Iterator[Batch]:
    """Yield the batch, or each batch of a stream; raises ValueError, naming the argument, for anything else."""
    for batch in (batches,) if isinstance(batches, Batch) else batches:
        if not isinstance(batch, Batch):
            raise ValueError(f"{name}: expected a Batch or an iterable of them, got a {type(batch).__name__}")
        yield batch


def inputs_of(model: Model, stack: Stack, batch: Batch) -> Batch:
    """Return the inputs that the stack's stream reads: one of the two where streams read nothing of each other."""
    return batch.only(stack.queries.kind) if model.network.apart else batch


def scored_pairs(batches: Batches, scored_as: Batches | None) -> Iterator[tuple[Batch, Batch]]:
    """Yield each batch with the batch whose tokens it is scored by: itself where `scored_as` is None.

    Raises:
        ValueError: for no batch, or a `scored_as` of other masks, or of more or fewer batches.
    """
    count = 0
    scoring = None if scored_as is None else iter(each_batch(scored_as, "scored_as"))
    for batch in each_batch(batches, "batch"):
        scored = batch if scoring is None else next(scoring, None)
        if scored is None or (scored is not batch and not np.array_equal(batch.mask, scored.mask)):
            raise ValueError(f"scored_as: expected a batch for every batch, with the same mask; number {count} differs")
        count += 1
        yield batch, scored
    if not count:
        raise ValueError("batch: expected at least one batch; the iterable gave none (a generator can be read once)")
    if scoring is not None and next(scoring, None) is not None:
        raise ValueError(f"scored_as: expected {count} batches like the batches measured; got more")
