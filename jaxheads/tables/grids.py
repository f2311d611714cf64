"""Arrays of a table: columns of its frame, its examples, read-only copies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def flat_columns(
    columns: Mapping[str, Any], extras: Mapping[str, ArrayLike], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Return the columns of a frame: each metric with its bounds and its count, then the extras."""
    flat: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        missing = np.full(shape, np.nan)
        bounds = {"": column.mean, "_low": column.low, "_high": column.high}
        for suffix, bound in bounds.items():
            numbers = np.asarray(missing if bound is None else bound, dtype=np.float64)
            _put(flat, name + suffix, numbers, shape)
        if column.n is not None:
            _put(flat, f"{name}_n", np.asarray(column.n), shape)
    for name, extra in extras.items():
        _put(flat, name, np.asarray(extra), shape)
    return flat


def _put(flat: dict[str, NDArray[Any]], name: str, cells: NDArray[Any], shape: tuple[int, ...]) -> None:
    if name in flat:
        raise ValueError(f"column {name!r} comes twice (a metric m also makes m_low, m_high and m_n): rename one")
    if cells.shape != shape:
        raise ValueError(f"column {name!r}: expected {list(shape)} like the first, got {list(cells.shape)}")
    _refuse_infinity(cells, f"column {name!r}")
    flat[name] = cells.reshape(-1)


def stack_examples(columns: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Return the examples of all metrics, or None; raises ValueError where only a part has them."""
    examples = {name: np.asarray(c.per_example) for name, c in columns.items() if c.per_example is not None}
    if not examples:
        return None
    shapes = {name: rows.shape for name, rows in examples.items()}
    expected = (*next(iter(shapes.values()))[:1], *shape)
    if len(examples) < len(columns) or set(shapes.values()) != {expected}:
        raise ValueError(
            f"per_example: expected shape {list(expected)} in every column or None in all, "
            f"got {shapes} for the columns {list(columns)}"
        )
    return np.stack(list(examples.values()))


def frozen(array: ArrayLike, dtype: Any, name: str) -> NDArray[Any]:
    """Return a read-only copy; raises ValueError for infinity."""
    with np.errstate(over="ignore"):  # an overflow of float32 becomes infinity, which is refused below
        copy = np.array(array, dtype=dtype)
    _refuse_infinity(copy, name)
    copy.setflags(write=False)
    return copy


def _refuse_infinity(cells: NDArray[Any], name: str) -> None:
    if cells.dtype.kind == "f" and np.isinf(cells).any():
        raise ValueError(f"{name}: expected finite numbers or NaN, got infinity in {np.isinf(cells).sum()} cells")
