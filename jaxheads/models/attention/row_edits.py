"""Edits that can be made at some query rows alone, so that long attention is edited block by block."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from jax import Array

from ..inputs.query_rows import Take
from .row_reader import RowReader

Edit = Callable[[str, Array], Array]
"""`edit(site, value)` returns the value that the forward pass goes on with, of unchanged shape and dtype."""

BY_QUERIES = frozenset({"scores", "pattern"})
"""Sites that attention has row by row of its queries where it runs in blocks."""


@dataclass(frozen=True, eq=False)
class RowEdit:
    """An edit that says which sites it may change, and can be made at some query rows of scores and patterns.

    Attributes:
        change: function of a site, its value and the choice of query rows that the value has, None for all.
        sites: the sites that it may change; others are not passed to `change`.
        readers: by name, what reads the pattern block by block, after its edits.
        take: the choice of query rows at `BY_QUERIES`; None for all.
    """

    change: Callable[[str, Array, Take | None], Array]
    sites: Collection[str]
    readers: Mapping[str, RowReader] = field(default_factory=dict)
    take: Take | None = None

    def __call__(self, site: str, value: Array) -> Array:
        """Return the value that the forward pass goes on with."""
        return self.change(site, value, self.take) if site in self.sites else value

    def rows(self, take: Take) -> "RowEdit":
        """Return the edit at the chosen query rows."""
        return replace(self, take=take)

    @property
    def of_queries(self) -> bool:
        """Whether it may change scores or patterns."""
        return not BY_QUERIES.isdisjoint(self.sites)


def at_sites(edit: Edit, sites: Collection[str]) -> RowEdit:
    """Return an edit that changes these sites alone, none of `BY_QUERIES` among them."""
    assert BY_QUERIES.isdisjoint(sites), "scores and patterns are edited row by row"
    return RowEdit(lambda site, value, _: edit(site, value), sites)


unchanged = RowEdit(lambda _, value, __: value, ())
"""The edit that changes nothing."""
