"""Tables derived from other tables: columns taken out, or spread over a larger grid."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ...tables import Column, HeadTable
from .components import Components


def columns_of(table: HeadTable) -> dict[str, Column]:
    """Return a table's columns by name; all its examples must have been kept."""
    assert table.per_example is not None
    examples = table.per_example if table.values.ndim > len(table.shape) else table.per_example[None]
    columns = {}
    for metric, per_example in zip(table.metrics, examples, strict=True):
        fields = (table.grid(metric + end) for end in ("", "_low", "_high", "_n"))
        columns[metric] = Column(*fields, per_example=per_example)
    return columns


def finite_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of finite values over the last axis; NaN where none is finite."""
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    return np.where(finite, values, 0.0).sum(axis=-1) / np.where(count > 0, count, np.nan)


def on_grid(flat: HeadTable, components: Components, chosen: np.ndarray, extras: Mapping[str, ArrayLike]) -> HeadTable:
    """Return a table of one column over the chosen components, spread over the grid of all; NaN elsewhere.

    Args:
        chosen: the number of each of the table's components among all.
    """

    def spread(values: ArrayLike | None) -> np.ndarray:
        numbers = np.asarray(values, np.float64)
        all_P = np.full((*numbers.shape[:-1], len(components)), np.nan)
        all_P[..., chosen] = numbers
        return components.grid(all_P)

    [(name, column)] = columns_of(flat).items()
    n = np.zeros(len(components), np.int64)
    n[chosen] = flat.grid(f"{name}_n")
    bounds = map(spread, (column.mean, column.low, column.high))
    columns = {name: Column(*bounds, n=components.grid(n, 0), per_example=spread(column.per_example))}
    not_finite = []
    # A lost example is named by the grid's coordinates: the flat table's row means nothing to the reader.
    for entry in flat.provenance["not_finite"]:
        cell = dict(zip(components.axes, components.cells[chosen[entry["part"]]], strict=True))
        not_finite.append({"column": entry["column"], "example": entry["example"], **cell})
    about = {**flat.provenance, "not_finite": not_finite}
    return HeadTable.from_columns(
        flat.name, flat.stack, columns, about, axes=components.axes, squeeze=True, extras=extras
    )
