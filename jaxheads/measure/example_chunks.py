"""Computations on examples in equal chunks: each within memory, over devices, and from the journal where it is there.

Dimension key: B examples of a chunk.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..execution.batching import Chunks, detecting_out_of_memory, run_chunks
from ..execution.cost import forward_bytes
from ..execution.journal import Journal
from ..execution.resources import Resources
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.stack import Stack


def choose_chunks(
    resources: Resources, model: Model, stack: Stack, batch: Batch, *, example_bytes: int, examples: int | None = None
) -> Chunks:
    """Return chunks of a forward pass that fits the resources.

    Args:
        stack: what is read of; the only stack that runs where a network's streams read nothing of each other.
        example_bytes: bytes of what is computed of one example, beside its forward pass.
        examples: their number; all of the batch when left out.
    """
    streams = (stack,) if model.network.apart else model.network.streams
    return Chunks.fitting(
        len(batch) if examples is None else examples,
        tokens=max(stream.queries.count(batch) for stream in streams),
        copy_bytes=example_bytes + max(forward_bytes(stream, batch) for stream in streams),
        memory=resources.memory,
        multiples=(resources.devices.multiples[0], 1),
    )


def run_examples(
    chunks: Chunks,
    count: int,
    compute: Callable[[np.ndarray], Any],
    add: Callable[[np.ndarray, np.ndarray], None],
    *,
    resources: Resources,
    journal: Journal,
    coordinates: Mapping[str, np.ndarray] | None = None,
    first: int = 0,
) -> None:
    """Compute one chunk after the other, and add the results in the order of the examples.

    Args:
        compute: from the indices of a chunk's examples, the last perhaps repeated, to an array on devices, `[B,…]`.
        add: takes the indices of a chunk's examples, each once, and their results in float64.
        journal: keeps the results of finished chunks.
        coordinates: columns of the journal's files for the results' axes after the first, each broadcast to `[B,…]`;
            the indices along each axis when left out.
        first: the number of the first example in its stream.

    Raises:
        MemoryError: if not even one example fits the device.
    """

    def columns(examples: np.ndarray) -> dict[str, np.ndarray] | None:
        if coordinates is None:
            return None
        axes = max(index.ndim for index in coordinates.values())
        return {"example": (first + examples).reshape(-1, *[1] * (axes - 1)), **coordinates}

    def run(examples: np.ndarray) -> None:
        new = np.unique(examples)

        def results() -> np.ndarray:
            return resources.devices.fetch(compute(examples))[: len(new)].astype(np.float64)

        # Halved chunks must not find the parts of whole ones: a part's name says how many examples ran together.
        name = f"{len(examples)}-from-{first + new[0]}"
        with detecting_out_of_memory():
            values = journal.part(name, results, columns(new))
        add(new, values)

    run_chunks(chunks, count, run)
