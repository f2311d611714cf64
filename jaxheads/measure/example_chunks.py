"""Computations on examples in equal chunks: each within memory, over devices, and from the journal where it is there.

Dimension key: B examples of a chunk.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ..execution.batching import Chunks, Later, detecting_out_of_memory, run_chunks
from ..execution.cost import forward_bytes
from ..execution.journal import Journal
from ..execution.resources import Resources
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.stack import Stack


def choose_chunks(resources: Resources, model: Model, stack: Stack, batch: Batch, *, example_bytes: int) -> Chunks:
    """Return the largest chunks whose forward passes fit the resources.

    Args:
        stack: the stack to read; no other runs where a network's streams read nothing of each other.
        example_bytes: bytes of what is computed of one example, beside its forward pass.
    """
    streams = (stack,) if model.network.apart else model.network.streams
    return Chunks.fitting(
        len(batch),
        tokens=max(stream.queries.count(batch) for stream in streams),
        copy_bytes=example_bytes + max(forward_bytes(stream, batch) for stream in streams),
        memory=resources.memory,
        # Nothing is edited: the mesh's axis "questions" has no share of the work.
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
    """Compute one array chunk by chunk, and add the results in the order of the examples.

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
    run_arrays(
        chunks,
        count,
        ("",),
        lambda examples: {"": compute(examples)},
        lambda examples, arrays: add(examples, arrays[""]),
        resources=resources,
        journal=journal,
        coordinates=coordinates,
        first=first,
    )


def run_arrays(
    chunks: Chunks,
    count: int,
    names: Sequence[str],
    compute: Callable[[np.ndarray], Mapping[str, Any]],
    add: Callable[[np.ndarray, dict[str, np.ndarray]], None],
    *,
    resources: Resources,
    journal: Journal,
    coordinates: Mapping[str, np.ndarray] | None = None,
    first: int = 0,
) -> None:
    """Compute several arrays by name, chunk by chunk; see `run_examples`. Each has a part of its own for each chunk."""

    def columns(examples: np.ndarray) -> dict[str, np.ndarray] | None:
        if coordinates is None:
            return None
        axes = max(index.ndim for index in coordinates.values())
        return {"example": (first + examples).reshape(-1, *[1] * (axes - 1)), **coordinates}

    def run(examples: np.ndarray) -> Iterator[Later[None]]:
        new = np.unique(examples)
        # All arrays of a chunk come from one computation, which is left out where the journal has them.
        results = functools.cache(lambda: compute(examples))
        # Halved chunks must not find the parts of whole ones: a part's name says how many examples ran together.
        prefix = f"{len(examples)}-from-{first + new[0]}"

        def send(name: str) -> Later[np.ndarray]:
            array = results()[name]
            return lambda: _fetch(resources, array)[: len(new)]

        with detecting_out_of_memory():
            parts = {
                name: journal.later(
                    f"{prefix}-{name}" if name else prefix, partial(send, name), columns(new), kind=name or "values"
                )
                for name in names
            }

        def finish() -> None:
            with detecting_out_of_memory():
                arrays = {name: part() for name, part in parts.items()}
            add(new, arrays)

        yield finish

    run_chunks(chunks, count, run)


def _fetch(resources: Resources, array: Any) -> np.ndarray:
    """Return an array in float64 on the host, from devices or from there already."""
    return np.asarray(resources.devices.fetch(array) if isinstance(array, jax.Array) else array, np.float64)
