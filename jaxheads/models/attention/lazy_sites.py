"""Sites of one layer of which scores and patterns are made when they are read: long attention never holds them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax import Array

from ..inputs.query_rows import Take, taken
from .row_edits import BY_QUERIES

Rows = Callable[[Take], Mapping[str, Array]]
"""Function that returns scores and pattern of the chosen query rows, `[B,N,t,S]`."""


class LazySites(Mapping[str, Any]):
    """Values at one layer's sites, by name.

    Args:
        values: those that are there.
        rows: makes the scores and patterns of any query rows, if they are not among the values.
    """

    def __init__(self, values: Mapping[str, Any], rows: Rows | None = None):
        self._values, self._rows = dict(values), rows

    def __getitem__(self, name: str) -> Any:
        if name not in self._values and self._rows is not None and name in BY_QUERIES:
            # Whole, because a reader asks for it. What no reader asks for is never traced.
            self._values |= self._rows(lambda x, _: x)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._values, *(() if self._rows is None else sorted(BY_QUERIES)))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def beside(self, values: Mapping[str, Any]) -> "LazySites":
        """Return these sites with other values beside them."""
        return LazySites({**self._values, **values}, self._rows)

    def of_queries(self, name: str) -> Callable[[Take], Array]:
        """Return the function that makes the chosen query rows of scores or pattern, `[B,N,t,S]`."""
        if name in self._values or self._rows is None:
            return lambda take: taken(self._values[name], take, 2)
        rows = self._rows
        return lambda take: rows(take)[name]
