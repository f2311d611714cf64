"""Columns of tables: pandas, polars and Arrow columns, and NumPy arrays of texts, as Python lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def listed(values: Any) -> Any:
    """Return a column's values as a list; anything that is no column of a table (a list, a stream, numbers) as it is.

    An array counts as a column if it holds texts or objects. A column's index is ignored: its order counts.

    Raises:
        ValueError: for a table or a mapping, whose iteration would give names of columns.
    """
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise ValueError(f"expected one column, or a list; got a {type(values).__name__}: choose one of its columns")
    if isinstance(values, np.ndarray):
        return values.tolist() if values.dtype.kind in "OUT" else values
    for module, method in (("pandas", "tolist"), ("pyarrow", "to_pylist"), ("polars", "to_list")):
        if type(values).__module__.split(".")[0] == module and hasattr(values, method):
            return getattr(values, method)()
    return values
