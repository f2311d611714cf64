"""Numbers of each example: computed chunk by chunk, kept in a journal, and averaged into a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..execution.batching import Chunks
from ..execution.resources import OPTIONS, Options, Resources
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..progress import progress
from ..provenance import provenance
from ..statistics import mean_interval
from ..tables import Column, HeadTable
from .example_chunks import run_arrays

Arrays = Mapping[str, Any]
"""Arrays by name, whose leading axis is examples."""


def per_example(
    question: str,
    names: Sequence[str],
    compute: Callable[[np.ndarray], Arrays],
    model: Model,
    batch: Batch,
    resources: Resources,
    *,
    example_bytes: int,
    identity: Any = None,
) -> dict[str, np.ndarray]:
    """Compute numbers of all examples, as many at a time as fit in memory; return NumPy arrays in float64.

    Args:
        question: its name in the journal and beside the progress bar.
        names: of the arrays; each has a part of its own for each chunk.
        compute: from the indices of a chunk's examples to arrays `[B,…]`. Chunks have one length, so that it compiles
            once: the last repeats its last example.
        example_bytes: bytes that one example needs, at least approximately.
        identity: arrays and words that the numbers depend on, beside model and batch.

    Raises:
        MemoryError: if not even one example fits the device.
    """
    E, tokens = len(batch), max(stack.queries.count(batch) for stack in model.running_streams(batch))
    # Nothing is edited: the mesh's axis "questions" has no share of the work.
    multiples = resources.devices.multiples[0], 1
    chunks = Chunks.fitting(
        E, tokens=tokens, copy_bytes=max(1, example_bytes), memory=resources.memory, multiples=multiples
    )
    journal = resources.journal(question, model, batch, identity)
    arrays: dict[str, np.ndarray] = {}

    with progress(E, f"{question}: {E} examples", resources.progress) as advance:

        def add(examples: np.ndarray, values: dict[str, np.ndarray]) -> None:
            for name, array in values.items():
                arrays.setdefault(name, np.empty((E, *array.shape[1:])))[examples] = array
            advance(len(examples))

        run_arrays(chunks, E, names, compute, add, resources=resources, journal=journal)
    return arrays


def silent(resources: Resources) -> Resources:
    """Return resources without a bar and a journal, for one computation within another."""
    return replace(resources, progress=False, resume=None)


def mean_table(
    name: str,
    model: Model,
    stack: str,
    values: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    options: Options,
    batch: Batch,
    *,
    axes: Sequence[str] = ("layer", "head"),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> HeadTable:
    """Average each column's values `[E, *grid]` over examples, with their intervals; infinite values are missing.

    Args:
        name: of the table.
        about: provenance beside the model, `level`, `seed` and `not_finite_count`, the number of infinite values.
        options: `level` of the intervals, and the question's `seed`.
        batch: whose examples the values are of.
        ranges: the least and largest value of columns, which no interval leaves; infinite when left out.
    """
    level, seed = (options.get(option, OPTIONS[option][1]) for option in ("level", "seed"))
    clusters = batch.cluster_labels
    columns, not_finite = {}, 0
    for column, of_examples in values.items():
        not_finite += int(np.isinf(of_examples).sum())
        finite = np.where(np.isfinite(of_examples), of_examples, np.nan)
        within = (ranges or {}).get(column, (-np.inf, np.inf))
        interval = mean_interval(finite, clusters=clusters, within=within, level=level)
        columns[column] = Column(*interval, finite, range=within)
    about = provenance(model, **about, level=level, seed=seed, not_finite_count=not_finite)
    return HeadTable.from_columns(name, stack, columns, about, axes=axes, squeeze=len(columns) == 1, clusters=clusters)
