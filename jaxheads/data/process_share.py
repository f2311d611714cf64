"""Batches that the processes of a distributed run read together, each its own share."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from ..arguments import checked
from ..models.inputs.batch import Batch

FIELDS = ("tokens", "mask", "token_types", "segments", "words", "clusters")
"""Fields of a batch that are exchanged."""

OTHERS = ("targets", "pixels", "features", "marks")

LABELS = ("segments", "clusters")
"""Fields whose numbers are those of texts: each process counts its own."""


@checked()
def process_share(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches that all processes' streams make together, the same ones in each process.

    Each process gives batches of its own texts (`dataset.shard(jax.process_count(), jax.process_index())`, its own
    files, every n-th row), which it alone reads and tokenises. A joint batch has the first process's examples, then the
    second's, and so on. Labels of clusters are made different. A process whose stream has ended gives no more examples.
    With one process, batches come as they are.

    Raises:
        ValueError: in every process, for batches of different lengths or fields, with other fields than those of
            tokens, or for a process without a batch.
    """
    stream = iter(batches)
    return stream if jax.process_count() == 1 else _joint(stream)


def _joint(batches: Iterator[Batch]) -> Iterator[Batch]:
    known: dict[str, np.ndarray] = {}
    while True:
        batch = next(batches, None)
        own = {} if batch is None else _fields(batch)
        known = known or own
        every = np.asarray(process_allgather(_about(batch, known)))
        rows_P = every[:, 0]
        if not rows_P.any():
            return
        # All processes learn of an error: one that raised alone would leave the others waiting.
        if every[:, 1].any() or (every[:, 2:] != every[:1, 2:]).any():
            raise ValueError(
                f"process_share: all processes must give batches of one length with the same of {', '.join(FIELDS)}, "
                f"none without a batch; the lengths are {every[:, 2].tolist()}"
            )
        yield _together(known, own, rows_P)


def _about(batch: Batch | None, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the number of examples, whether there are other fields, the length, and which fields there are."""
    rows = 0 if batch is None else len(batch)
    others = batch is not None and any(getattr(batch, name) is not None for name in OTHERS)
    length = known["tokens"].shape[1] if "tokens" in known else 0
    return np.array([rows, others, length, *(name in known for name in FIELDS)], np.int32)


def _fields(batch: Batch) -> dict[str, np.ndarray]:
    fields = {name: getattr(batch, name) for name in FIELDS}
    return {name: np.asarray(values) for name, values in fields.items() if values is not None}


def _together(known: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], rows_P: np.ndarray) -> Batch:
    """Return the batch of all processes' rows; `known` has the shapes where this process has none left."""
    joined: dict[str, Any] = {}
    for name, example in known.items():
        # Arrays that are exchanged have one shape everywhere.
        values = np.zeros((rows_P.max(), *example.shape[1:]), np.int32)
        if name in own:
            mine = own[name].astype(np.int32)
            values[: len(mine)] = mine * len(rows_P) + jax.process_index() if name in LABELS else mine
        every = np.asarray(process_allgather(values))
        joined[name] = np.concatenate([part[:count] for part, count in zip(every, rows_P, strict=True)])
    return Batch(**{**joined, "mask": joined["mask"].astype(bool)})
