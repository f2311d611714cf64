"""Batches that the processes of a distributed run read together, each its own share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from ..arguments import checked
from ..models.inputs.batch import Batch

FIELDS = ("tokens", "mask", "token_types", "segments", "words", "targets", "target_mask", "clusters")
"""Fields of a batch that are exchanged as integers."""

FLOATS = ("pixels", "features")
"""Fields that are exchanged as float32."""

LABELS = ("segments", "clusters")
"""Fields whose numbers are those of texts: each process counts its own."""

Entry = Batch | tuple[Batch, Batch]

MEMBERS = 2
"""Batches of an entry, at most."""


@checked()
def process_share(batches: Iterable[Batch] | Iterable[tuple[Batch, Batch]]) -> Iterator[Any]:
    """Yield the batches that all processes' streams make together, the same ones in each process.

    Each process gives batches of its own examples (`dataset.shard(jax.process_count(), jax.process_index())`, its own
    files, every n-th row), which it alone reads and encodes. A joint batch has the first process's examples, then the
    second's, and so on. Labels of clusters are made different. A process whose stream has ended gives no more examples.
    A stream of pairs, clean and corrupt, gives pairs. With one process, batches come as they are.

    Raises:
        ValueError: in every process, for batches of different shapes or fields, with marks or labels, or for a process
            without a batch.
    """
    stream = iter(batches)
    return stream if jax.process_count() == 1 else _joint(stream)


def _joint(entries: Iterator[Entry]) -> Iterator[Entry]:
    known: list[dict[str, np.ndarray]] = []
    while True:
        entry = next(entries, None)
        members = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
        own = [_fields(member) for member in members]
        known = known or own
        every = np.asarray(process_allgather(_about(members, known)))
        rows_P = every[:, 0]
        if not rows_P.any():
            return
        # All processes learn of an error: one that raised alone would leave the others waiting.
        if every[:, 1].any() or (every[:, 2:] != every[:1, 2:]).any():
            raise ValueError(
                "process_share: all processes must give batches of one length with the same of "
                f"{', '.join((*FIELDS, *FLOATS))}, none without a batch, and no marks or labels; the lengths are "
                f"{every[:, 2].tolist()}"
            )
        nothing: dict[str, np.ndarray] = {}
        joint = [_together(fields, own[number] if own else nothing, rows_P) for number, fields in enumerate(known)]
        yield joint[0] if len(joint) == 1 else (joint[0], joint[1])


def _about(members: Sequence[Batch], known: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return the number of examples, whether there is what can't be exchanged, and the shapes of all fields."""
    rows = len(members[0]) if members else 0
    others = any(member.marks is not None or member.labels is not None or len(member) != rows for member in members)
    shapes = np.full((MEMBERS, len(FIELDS) + len(FLOATS), 3), -1, np.int32)
    for number, fields in enumerate(known):
        for field, name in enumerate((*FIELDS, *FLOATS)):
            shape = fields[name].shape[1:] if name in fields else (-1,)
            shapes[number, field, : len(shape)] = shape
    return np.array([rows, others, *shapes.reshape(-1)], np.int32)


def _fields(batch: Batch) -> dict[str, np.ndarray]:
    fields = {name: getattr(batch, name) for name in (*FIELDS, *FLOATS)}
    return {name: np.asarray(values) for name, values in fields.items() if values is not None}


def _together(known: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], rows_P: np.ndarray) -> Batch:
    """Return the batch of all processes' rows; `known` has the shapes where this process has none left."""
    joined: dict[str, Any] = {}
    for name, example in known.items():
        # Arrays that are exchanged have one shape everywhere.
        values = np.zeros((rows_P.max(), *example.shape[1:]), np.float32 if name in FLOATS else np.int32)
        if name in own:
            mine = own[name].astype(values.dtype)
            values[: len(mine)] = mine * len(rows_P) + jax.process_index() if name in LABELS else mine
        every = np.asarray(process_allgather(values))
        joined[name] = np.concatenate([part[:count] for part, count in zip(every, rows_P, strict=True)])
    masks = {name: joined[name].astype(bool) for name in ("mask", "target_mask") if name in joined}
    return Batch(**{**joined, **masks})
