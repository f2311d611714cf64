"""Numbers of each example: computed chunk by chunk, and averaged into a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..models.model import Model
from ..provenance import provenance
from ..statistics import bootstrap_mean
from ..tables import Column, HeadTable

MOST = 64
"""Most examples of a chunk."""


def per_example(compute: Callable[[np.ndarray], Any], count: int, *, example_bytes: int, memory: int) -> Any:
    """Run a computation on all examples, as many at a time as fit in memory; return NumPy arrays in float64.

    Args:
        compute: from the indices of a chunk's examples to any pytree of arrays `[B,…]`. Chunks have one length, so that
            it compiles once: the last repeats its last example.
        count: the number of examples.
        example_bytes: bytes that one example needs, at least approximately.
    """
    most = int(np.clip(memory // max(example_bytes, 1), 1, MOST))
    size = -(-count // -(-count // most))
    chunks = []
    for start in range(0, count, size):
        arrays = compute(np.minimum(np.arange(start, start + size), count - 1))
        chunks.append(jax.tree.map(lambda array, new=count - start: np.asarray(array, np.float64)[:new], arrays))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *chunks)


def mean_table(
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
    """Average each column's values `[E, *grid]` over examples, with bootstrap intervals; infinite values are missing.

    Args:
        name: of the table.
        about: provenance beside the model, `level`, `seed` and `not_finite_count`, the number of infinite values.
    """
    columns, not_finite = {}, 0
    for column, of_examples in values.items():
        not_finite += int(np.isinf(of_examples).sum())
        finite = np.where(np.isfinite(of_examples), of_examples, np.nan)
        columns[column] = Column(*bootstrap_mean(finite, level=level, seed=seed), finite)
    about = provenance(model, **about, level=level, seed=seed, not_finite_count=not_finite)
    return HeadTable.from_columns(name, stack, columns, about, axes=axes, squeeze=len(columns) == 1)
