"""Columns of tables: pandas, polars and Arrow columns, and arrays of texts or objects, as lists and arrays."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

_AS_LIST = {"pandas": "tolist", "pyarrow": "to_pylist", "polars": "to_list"}
"""The method of each library's columns that returns a list."""


def plain(values: Any) -> Any:
    """Return a column as an array of numbers, or else as a list; anything that is no column as it is.

    An array counts as a column if it holds texts or objects; one of another byte order than the machine's comes back in
    the machine's, as JAX needs it. A column's index is ignored: its order counts.
    """
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if isinstance(values, np.ndarray):
        return values.tolist() if values.dtype.kind in "OUT" and values.ndim else values
    method = _AS_LIST.get(type(values).__module__.split(".")[0], "")
    if not hasattr(values, method) or not method or hasattr(values, "columns"):
        return values
    numbers = values.to_numpy() if hasattr(values, "to_numpy") and hasattr(values, "dtype") else np.zeros(0, object)
    return numbers if numbers.dtype.kind in "biuf" else getattr(values, method)()


def listed(values: Any) -> Any:
    """Return a column of texts as a list, as `plain` does.

    Raises:
        ValueError: for a table or a mapping, whose iteration would give names of columns.
    """
    if isinstance(values, Mapping) or hasattr(values, "columns") or hasattr(values, "column_names"):
        raise ValueError(f"expected one column, or a list; got a {type(values).__name__}: choose one of its columns")
    return plain(values)


def column_of(table: Any, name: str) -> Iterable[Any]:
    """Return a column of a table (pandas, polars, Arrow, arrays by name), or of rows (a Hugging Face dataset, dicts).

    Rows are read one by one, as they are needed.

    Raises:
        ValueError: for a column that is not there, with those that are; for something without columns.
    """
    known = table if isinstance(table, Mapping) else getattr(table, "column_names", getattr(table, "columns", None))
    if known is not None and name not in list(known):
        raise ValueError(f"column: expected one of {', '.join(map(str, known))}; got {name!r}")
    if isinstance(table, Mapping) or type(table).__module__.split(".")[0] in _AS_LIST:
        return plain(table[name])
    if isinstance(table, str | bytes) or not isinstance(table, Iterable):
        raise ValueError(f"column={name!r}: expected a table or rows by name, got a {type(table).__name__}")
    return _of_rows(table, name)


def _of_rows(rows: Iterable[Any], name: str) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or name not in row:
            kind = type(row).__name__
            about = ", ".join(map(str, row)) if isinstance(row, Mapping) else f"no columns: it is a {kind}"
            raise ValueError(f"column: row number {number} has no {name!r}; it has {about}")
        yield row[name]


def is_missing(value: Any) -> bool:
    """Whether a value of a column stands for one that is missing: None, NaN, pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
