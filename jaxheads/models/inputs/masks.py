"""Masks as descriptions, of which the mask of any query rows is made: no mask of all queries and keys is kept.

Dimension key: B examples, T query positions, S key positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import Array

from .query_rows import Take, rows_from, taken


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """The keys that each query may attend to: those that fulfil every condition that is not None.

    Attributes:
        real: which keys are real, not padding, `[B,S]`.
        columns: where a query sees no later key, the column of each query among the keys, `[1|B,T]`.
        texts: the texts that queries `[B,T]` and keys `[B,S]` belong to, of several that share an example.
        near: positions of queries `[B,T]` and keys `[B,S]`, and the distance that a query's keys stay below.
        edges: the pairs that are visible, `[1|B,1|T,S]`.
        first: the column of the first query, where `columns` are consecutive; None otherwise.
    """

    real: Array | None = None
    columns: Array | None = None
    texts: tuple[Array, Array] | None = None
    near: tuple[Array, Array, Array | int] | None = None
    edges: Array | None = None
    first: int | None = field(default=None, metadata={"static": True})

    @staticmethod
    def of(mask: "Mask | Array") -> "Mask":
        """Return a mask, or a whole one `[B,T,S]`, as a description."""
        return mask if isinstance(mask, Mask) else Mask(edges=mask)

    def array(self) -> Array:
        """Return where a query may attend to a key, bool `[1|B,1|T,S]`."""
        conditions = []
        if self.real is not None:
            conditions.append(self.real[:, None, :])
        if self.columns is not None:
            conditions.append(self.columns[:, :, None] >= jnp.arange(self.keys)[None, None, :])
        if self.texts is not None:
            queries_BT, keys_BS = self.texts
            conditions.append(queries_BT[:, :, None] == keys_BS[:, None, :])
        if self.near is not None:
            queries_BT, keys_BS, window = self.near
            conditions.append(jnp.abs(queries_BT[:, :, None] - keys_BS[:, None, :]) < window)
        if self.edges is not None:
            conditions.append(self.edges)
        visible = conditions[0]
        for condition in conditions[1:]:
            visible = visible & condition
        return visible

    @property
    def keys(self) -> int:
        """The number of keys, S."""
        known = self.real if self.real is not None else self.edges
        assert known is not None, "a mask has real keys, or edges"
        return known.shape[-1]

    def within(self, queries_BT: Array, keys_BS: Array, window: Array | int) -> "Mask":
        """Return the mask with keys at positions nearer than `window` to the query's alone."""
        return replace(self, near=(queries_BT, keys_BS, window))

    def rows(self, take: Take) -> "Mask":
        """Return the mask of the chosen queries."""
        return replace(self._mapped(lambda x, axis: taken(x, take, axis), lambda keys: keys), first=None)

    def after(self, position: int) -> "Mask":
        """Return the mask of the queries from `position` on."""
        rows = self.rows(rows_from(position))
        return rows if self.first is None else replace(rows, first=self.first + position)

    def until(self, stop: int) -> "Mask":
        """Return the mask of the keys before column `stop`."""
        return self._mapped(lambda x, _: x, lambda keys: keys[..., :stop])

    def _mapped(self, of_queries: Callable[[Array, int], Array], of_keys: Callable[[Array], Array]) -> "Mask":
        """Return the mask with its arrays changed along their axes of queries and of keys."""
        texts, near = self.texts, self.near
        return Mask(
            None if self.real is None else of_keys(self.real),
            None if self.columns is None else of_queries(self.columns, 1),
            None if texts is None else (of_queries(texts[0], 1), of_keys(texts[1])),
            None if near is None else (of_queries(near[0], 1), of_keys(near[1]), near[2]),
            None if self.edges is None else of_keys(of_queries(self.edges, 1)),
            self.first,
        )
