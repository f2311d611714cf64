"""Equality of tables in which some numbers don't count."""

import numpy as np

import jaxheads as jh

from ..models.networks import assert_same


def assert_same_table(table: jh.HeadTable, expected: jh.HeadTable) -> None:
    """Every number within 1e-5, and NaN where the other is NaN."""
    assert table.per_example is not None
    assert expected.per_example is not None
    np.testing.assert_array_equal(np.isnan(table.per_example), np.isnan(expected.per_example))
    for one, other in ((table.per_example, expected.per_example), (table.values, expected.values)):
        assert_same(np.nan_to_num(one), np.nan_to_num(other))
