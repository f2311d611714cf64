"""Choice of some query rows of per-query arrays, and the size of the blocks in which long attention runs.

Dimension key: B examples, T query positions, t or R chosen ones, S key positions, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

BLOCK_BYTES = 16 * 2**20
"""Bytes of a block's scores in float32: on CPU more of them leave the cache and are slower."""

Take = Callable[[Array, int], Array]
"""`take(x, axis)` returns the chosen query rows of `x` along the axis of its queries."""


def block_rows(examples: int, heads: int, queries: int, keys: int) -> int:
    """Return the number of query rows that attention computes together: all where their scores fill two blocks."""
    most = max(1, BLOCK_BYTES // (4 * examples * heads * keys))
    if 2 * most >= queries:
        return queries
    least = -(-queries // most)
    # Blocks of one length without filler rows, where there are such blocks of a fair size.
    even = [count for count in range(least, min(2 * least, queries) + 1) if queries % count == 0]
    return queries // even[0] if even else -(-queries // least)


def even_block(most: int, rows: int) -> int:
    """Return the largest size of blocks, at most `most`, that leaves none of the rows over."""
    return next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)


@dataclass(frozen=True)
class QueryBlock:
    """Consecutive query rows, `first` to `first + size`, of `count`; where they run beyond, the last one fills up."""

    first: Array | int
    size: int
    count: int

    def __call__(self, x: Array, axis: int) -> Array:
        """Return these rows of `x` along an axis."""
        if self.count % self.size == 0:
            return jax.lax.dynamic_slice_in_dim(x, self.first, self.size, axis)
        return jnp.take(x, jnp.minimum(self.first + jnp.arange(self.size), self.count - 1), axis=axis)


def rows_from(position: int) -> Take:
    """Return the choice of all rows from a position on."""
    return lambda x, axis: jax.lax.slice_in_dim(x, position, x.shape[axis], axis=axis)


def rows_of_examples(rows_BR: Array) -> Take:
    """Return the choice of each example's own rows; arrays have the examples as their first axis, or size 1 there."""

    def take(x: Array, axis: int) -> Array:
        x = jnp.broadcast_to(x, (len(rows_BR), *x.shape[1:]))
        return jax.vmap(lambda example, rows: jnp.take(example, rows, axis=axis - 1))(x, rows_BR)

    return take


def taken(x: Array, take: Take, axis: int) -> Array:
    """Return the chosen rows of an array that may have one row for all queries: that one stays."""
    return x if x.shape[axis] == 1 else take(x, axis)
