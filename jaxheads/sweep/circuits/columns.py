"""Tables made of other tables: their columns taken apart, turned into sizes, spread over a larger grid."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ...tables import Column, HeadTable
from .components import Parts


def columns_of(table: HeadTable) -> dict[str, Column]:
    """A table's columns; all its examples must have been kept."""
    assert table.per_example is not None
    examples = table.per_example if table.values.ndim > len(table.shape) else table.per_example[None]
    columns = {}
    for metric, per_example in zip(table.metrics, examples, strict=True):
        mean, low, high = (table.grid(metric + end) for end in ("", "_low", "_high"))
        columns[metric] = Column(mean, low, high, per_example)
    return columns


def magnitude(column: Column) -> Column:
    """The size of a mean. Its interval is all the sizes in the mean's interval; examples get the mean's sign."""
    mean, low, high = (np.asarray(part, np.float64) for part in (column.mean, column.low, column.high))
    least = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    most = np.maximum(np.abs(low), np.abs(high))
    return Column(np.abs(mean), least, most, np.asarray(column.per_example) * np.where(mean < 0, -1.0, 1.0))


def finite_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    return np.where(finite, values, 0.0).sum(axis=-1) / np.where(count > 0, count, np.nan)


def on_the_grid(flat: HeadTable, parts: Parts, chosen: np.ndarray, extras: Mapping[str, ArrayLike]) -> HeadTable:
    """A table of one column over some parts, given by their numbers, spread over the grid of all; NaN elsewhere."""

    def spread(values: ArrayLike | None) -> np.ndarray:
        cells = np.asarray(values, np.float64)
        whole = np.full((*cells.shape[:-1], len(parts)), np.nan)
        whole[..., chosen] = cells
        return parts.grid(whole)

    [(name, column)] = columns_of(flat).items()
    columns = {name: Column(*map(spread, (column.mean, column.low, column.high, column.per_example)))}
    lost = []
    for cell in flat.provenance["not_finite"]:
        row, place = parts.places[chosen[cell["part"]]], ("column", "example")
        lost.append({**{key: cell[key] for key in place}, **dict(zip(parts.axes, row, strict=True))})
    about = {**flat.provenance, "not_finite": lost}
    return HeadTable.from_columns(flat.name, flat.stack, columns, about, axes=parts.axes, squeeze=True, extras=extras)
