"""The five kinds of self-attention maps of Kovaleva et al. 2019 (section 4.1), told apart by rules.

They had 400 maps labelled by hand and trained a network on them; the rules here were fixed on maps made for each kind.

Dimension key: T query positions, S key positions, the same as the queries.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .example import Example
from .metric import Scored
from .positions import TINY

CLASSES = ("vertical", "diagonal", "vertical+diagonal", "block", "heterogeneous")

BAND, COLUMNS = 1, 3
"""Width of a diagonal on either side, and the number of columns of a vertical map."""

EXPLAINED, PART, WITHIN = 0.4, 0.15, 0.85
"""Least shares of all attention: of band and columns together, of either to be seen, and of two blocks."""


class MapSums(NamedTuple):
    """Sums of attention over query rows, `[S]` each: shares of the attention that a query gives to keys.

    Attributes:
        near, far: of each key, within the band about the diagonal and outside of it.
        by_later, by_earlier: of the pairs whose later, or earlier, position is this one.
    """

    near: Array
    far: Array
    by_later: Array
    by_earlier: Array


def pattern_class(pattern_TS: Array, example: Example) -> MapSums:
    """Membership of a map in each of CLASSES, 0 or 1, `[5]`.

    The three fullest columns and the band of ±1 about the diagonal hold at least 0.4 of all attention beyond what
    uniform attention has there: then it is vertical, diagonal, or both where either holds 0.15. Else, where two blocks
    along the diagonal (neither smaller than a quarter) hold 0.85: block. Else heterogeneous. The table holds each
    head's most frequent class, as an index into CLASSES, and the share of examples in that class. Where heads have
    learnt sinks, each query's attention to keys counts as 1.
    """
    A_TS = jnp.where(example.pairs, pattern_TS, 0.0)
    A_TS = A_TS / jnp.maximum(1 - example.to_sink(A_TS), TINY)[:, None]
    near_TS, ahead_TS = jnp.abs(example.offsets) <= BAND, example.offsets > 0

    def of_keys(chosen_TS: Array) -> Array:
        return jnp.where(chosen_TS, A_TS, 0.0).sum(axis=0)

    def of_queries(chosen_TS: Array) -> Array:
        sums_T = jnp.where(chosen_TS, A_TS, 0.0).sum(axis=1)
        return jnp.zeros(A_TS.shape[1]).at[example.rows].add(sums_T, mode="drop")

    by_later_S = of_keys(ahead_TS) + of_queries(~ahead_TS)
    by_earlier_S = of_keys(~ahead_TS) + of_queries(ahead_TS)
    return MapSums(of_keys(near_TS), of_keys(~near_TS), by_later_S, by_earlier_S)


def class_of(sums: MapSums, example: Example) -> Scored:
    """Return a map's membership in each of CLASSES, 0 or 1, `[5]`, and whether there is any query."""
    n = jnp.maximum(example.mask.sum(dtype=jnp.float32), 1.0)
    column_S = sums.far / n
    fullest_S = column_S >= jnp.sort(column_S)[-COLUMNS:][0]
    vertical = jnp.where(fullest_S, sums.near + sums.far, 0.0).sum() / n - COLUMNS / n
    diagonal = jnp.where(fullest_S, 0.0, sums.near).sum() / n - (2 * BAND + 1) / n
    explained = vertical + diagonal >= EXPLAINED
    both = (vertical >= PART) & (diagonal >= PART)
    block = _block_share(sums, example, n) >= WITHIN
    index = jnp.where(explained, jnp.where(both, 2, jnp.where(vertical >= diagonal, 0, 1)), jnp.where(block, 3, 4))
    return (jnp.arange(5) == index).astype(jnp.float32), jnp.full(5, example.mask.any())


def _block_share(sums: MapSums, example: Example, n: Array) -> Array:
    """Return the largest share of all attention that two blocks along the diagonal can hold."""
    # Entry s: the second block begins at s. A pair is within the first where its later position is before s, and
    # within the second where its earlier position is not.
    within_first_S = jnp.cumsum(sums.by_later) - sums.by_later
    within_second_S = sums.by_earlier.sum() - (jnp.cumsum(sums.by_earlier) - sums.by_earlier)
    start_S = example.positions.astype(jnp.float32)
    chosen_S = example.mask & (start_S >= n / 4) & (start_S <= 3 * n / 4)
    return jnp.where(chosen_S, within_first_S + within_second_S, 0.0).max() / n
