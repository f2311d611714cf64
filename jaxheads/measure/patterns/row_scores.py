"""Scores of one layer's heads by query rows: sums over block after block, of which the scores are made at the end.

Dimension key: B batch, T query positions, t query positions of a block, S key positions, N query heads, C entries of
all metrics, K texts of an example.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ...execution.cost import FLOAT
from ...models.attention.row_reader import RowReader
from ...models.inputs.query_rows import block_rows
from .example import Example, counted, rows_of
from .metric import Metric, head_scores, head_sums, packed

ROWS_HELD = 8
"""Arrays of the size of a block of rows that the compiled metrics hold at once, at most."""


def score_bytes(metrics: Sequence[Metric], heads: int, queries: int, keys: int) -> int:
    """Return the bytes that the scores of one example's layer take beside the patterns' own."""
    whole = 0 if all(metric.by_rows for metric in metrics) else queries
    return FLOAT * heads * keys * (ROWS_HELD * block_rows(1, heads, queries, keys) + whole)


class Sums(NamedTuple):
    """Sums over query rows.

    Attributes:
        metrics: by name, of the metrics that are `by_rows`, with leading axes `[B N]`, or `[K,B N]` of texts.
        pattern: the rows themselves, `[B,N,T,S]`, which all other metrics share; None without such metrics.
    """

    metrics: dict[str, Any]
    pattern: Array | None


@dataclass(frozen=True)
class RowScores:
    """A `RowReader` that returns the scores of one layer as `packed` has them, `[B,N,C]`.

    Attributes:
        examples: the batch's.
        heads: N.
    """

    metrics: tuple[Metric, ...]
    examples: Example
    heads: int

    def start(self) -> Sums:
        """Return the sums of no rows."""
        (B, T), S = self.examples.mask.shape, self.examples.keys.shape[1]
        one_row = jax.ShapeDtypeStruct((B, self.heads, 1, S), jnp.float32)
        shapes = jax.eval_shape(lambda pattern_BN1S: self.more(pattern_BN1S, 0), one_row)
        sums = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        by_rows = all(metric.by_rows for metric in self.metrics)
        return Sums(sums, None if by_rows else jnp.zeros((B, self.heads, T, S)))

    def add(self, sums: Sums, sites: Mapping[str, Array], first: Array | int) -> Sums:
        """Return the sums with those of the query rows from `first` on."""
        pattern_BNtS = sites["pattern"]
        summed = jax.tree.map(jnp.add, sums.metrics, self.more(pattern_BNtS, first))
        return Sums(summed, _with_rows(sums.pattern, pattern_BNtS, first))

    def finish(self, sums: Sums) -> Array:
        """Return the scores of the sums over all rows."""
        return self.scores(sums, counted(self.examples))

    def more(self, pattern_BNtS: Array, first: Array | int) -> dict[str, Any]:
        """Return by name the sums over the rows from `first` on."""
        return self.row_sums(pattern_BNtS, rows_of(counted(self.examples), first, pattern_BNtS.shape[2]))

    def row_sums(self, pattern_BNtS: Array, rows: Example) -> dict[str, Any]:
        """Return by name the sums over some rows, of the metrics that are `by_rows`."""
        return {metric.name: head_sums(metric, pattern_BNtS, rows) for metric in self.metrics if metric.by_rows}

    def scores(self, sums: Sums, examples: Example) -> Array:
        """Return all metrics' scores of these examples, whose rows were all summed."""

        def sums_of(metric: Metric) -> Any:
            if metric.by_rows:
                return sums.metrics[metric.name]
            assert sums.pattern is not None, "`start` makes room for it"
            return sums.pattern.reshape(-1, *sums.pattern.shape[2:])

        return packed({own.name: head_scores(own, sums_of(own), examples, self.heads) for own in self.metrics})


def _with_rows(whole_BNTS: Array | None, pattern_BNtS: Array, first: Array | int) -> Array | None:
    """Return a whole pattern with these rows in their place."""
    if whole_BNTS is None or pattern_BNtS.shape == whole_BNTS.shape:
        return whole_BNTS if whole_BNTS is None else pattern_BNtS.astype(whole_BNTS.dtype)
    rows_t = first + jnp.arange(pattern_BNtS.shape[2])
    return whole_BNTS.at[:, :, rows_t].set(pattern_BNtS.astype(whole_BNTS.dtype), mode="drop")


def read_in_blocks(reader: RowReader, sites: Mapping[str, Array], size: int) -> Any:
    """Return what a reader returns of a pattern `[B,N,T,S]` that is there, read `size` query rows at a time."""
    pattern_BNTS = sites["pattern"]
    T = pattern_BNTS.shape[2]
    if size >= T:
        return reader.finish(reader.add(reader.start(), sites, 0))

    def add(sums: Any, first: Array) -> tuple[Any, None]:
        rows_t = jnp.minimum(first + jnp.arange(size), T - 1)
        return reader.add(sums, {**sites, "pattern": pattern_BNTS[:, :, rows_t]}, first), None

    return reader.finish(jax.lax.scan(add, reader.start(), size * jnp.arange(-(-T // size)))[0])
