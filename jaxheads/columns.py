"""Columns of tables: pandas, polars and Arrow columns, and arrays of texts or objects, as lists and arrays."""

from collections.abc import Mapping
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
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise ValueError(f"expected one column, or a list; got a {type(values).__name__}: choose one of its columns")
    return plain(values)
