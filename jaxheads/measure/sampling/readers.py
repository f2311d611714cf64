"""Readers of one layer's patterns, block by block of query rows: summaries of all heads, and sparse rows.

Dimension key: B examples, T query positions, t query positions of a block, S key positions, N query heads, K key/value
heads, H head dimension, O bins of offsets, W bins of weights, k largest weights of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...models.attention.scoring import readable, weighted_sum
from ..patterns.example import Example, counted, rows_of
from .counted import WEIGHT_BINS, offset_edges, offset_labels

UNIT = 2.0**-16
"""The step to which the attention that positions collect is rounded: sums of whole numbers have no order."""


class Summaries(NamedTuple):
    """Summaries of one layer's heads over the rows so far.

    Attributes:
        weight, key: each row's largest weight between counted positions, and its key's column, `[B,N,T]`.
        offsets, weights: number of counted queries by the offset of the key with the row's largest weight, and by that
            weight, int `[N,O]` and `[N,W]`.
        collected: attention that each key gets from other, counted queries, `[B,N,S]`.
        spread: attention that each query gives to other, counted keys, `[B,N,T]`.
        first, second: sums over counted queries of z and of its products, `[N,H]` and `[N,H,H]`.
    """

    weight: Array
    key: Array
    offsets: Array
    weights: Array
    collected: Array
    spread: Array
    first: Array
    second: Array


@dataclass(frozen=True)
class SummaryReader:
    """A `RowReader` that returns the `Summaries` of one layer.

    Attributes:
        examples: the batch's.
        queries, keys: which positions count, bool `[B,T]` and `[B,S]`.
        heads, size: N and H.
        patch: pixels of a patch's side.
        cross: whether keys are other positions than queries: then there are no offsets.
    """

    examples: Example
    queries: Array
    keys: Array
    heads: int
    size: int
    patch: int
    cross: bool

    def start(self) -> Summaries:
        """Return the summaries of no rows."""
        (B, T), S, N, H = self.queries.shape, self.keys.shape[1], self.heads, self.size
        rows = jnp.zeros((B, N, T), jnp.float32), jnp.zeros((B, N, T), jnp.int32)
        bins = jnp.zeros((N, len(offset_labels())), jnp.int32), jnp.zeros((N, WEIGHT_BINS), jnp.int32)
        sums = [jnp.zeros(shape, jnp.float32) for shape in ((B, N, S), (B, N, T), (N, H), (N, H, H))]
        return Summaries(*rows, *bins, *sums)

    def add(self, sums: Summaries, sites: Mapping[str, Array], first: Array | int) -> Summaries:
        """Return the summaries with those of the query rows from `first` on."""
        pattern_BNtS = sites["pattern"].astype(jnp.float32)
        rows, T = rows_of(counted(self.examples), first, pattern_BNtS.shape[2]), self.queries.shape[1]
        rows_t = first + jnp.arange(pattern_BNtS.shape[2])
        counts_Bt = jnp.take(self.queries, rows_t, axis=1, mode="clip") & (rows_t < T)[None]
        pairs_BtS = counts_Bt[:, :, None] & self.keys[:, None, :]
        between_BNtS = jnp.where(pairs_BtS[:, None], pattern_BNtS, 0.0)
        place = (slice(None), slice(None), rows_t)
        # Rows beyond the last are dropped. All sums add up, also those of stripes of rows on several devices.
        weight_BNT = sums.weight.at[place].set(between_BNtS.max(axis=3), mode="drop")
        key_BNT = sums.key.at[place].set(jnp.argmax(between_BNtS, axis=3).astype(jnp.int32), mode="drop")
        if not self.cross:
            own_tS = rows_t[:, None] == jnp.arange(self.keys.shape[1])[None]
            between_BNtS = jnp.where(own_tS[None, None], 0.0, between_BNtS)
        spread_BNT = sums.spread.at[place].set(between_BNtS.sum(axis=3), mode="drop")
        offsets, weights = self._histograms(pattern_BNtS, rows, counts_Bt)
        z_BtNH = weighted_sum(sites["pattern"], readable(sites["v"])).astype(jnp.float32)
        z_BtNH = jnp.where(counts_Bt[:, :, None, None] & jnp.isfinite(z_BtNH), z_BtNH, 0.0)
        return Summaries(
            weight_BNT,
            key_BNT,
            sums.offsets + offsets,
            sums.weights + weights,
            sums.collected + between_BNtS.sum(axis=2),
            spread_BNT,
            sums.first + z_BtNH.sum(axis=(0, 1)),
            sums.second + jnp.einsum("btnh,btni->nhi", z_BtNH, z_BtNH),
        )

    def finish(self, sums: Summaries) -> dict[str, Array]:
        """Return the summaries by name: of examples, `[B,…]`, and over them, with a first axis of size 1."""
        # Of equal weights the first stays, whatever the blocks are.
        query_BN1 = jnp.argmax(sums.weight, axis=2, keepdims=True)
        key_BN1 = jnp.take_along_axis(sums.key, query_BN1, axis=2).astype(jnp.float32)
        pair = sums.weight.max(axis=2, keepdims=True), query_BN1.astype(jnp.float32), key_BN1
        return {
            "pairs": jnp.concatenate(pair, axis=2),
            "counts": jnp.concatenate([sums.offsets, sums.weights], axis=-1)[None],
            "collected": jnp.round(sums.collected / UNIT),
            "spread": jnp.round(sums.spread / UNIT),
            "moments": jnp.concatenate([sums.first[..., None], sums.second], axis=-1)[None],
        }

    def _histograms(self, pattern_BNtS: Array, rows: Example, counts_Bt: Array) -> tuple[Array, Array]:
        real_BNtS = jnp.where(rows.keys[:, None, None], pattern_BNtS, -1.0)
        key_BNt, weight_BNt = jnp.argmax(real_BNtS, axis=-1), real_BNtS.max(axis=-1)
        weight_BNt = jnp.clip((weight_BNt * WEIGHT_BINS).astype(jnp.int32), 0, WEIGHT_BINS - 1)
        weights = _tally(weight_BNt, counts_Bt, WEIGHT_BINS)
        bins = len(offset_labels())
        if self.cross:
            return jnp.zeros((self.heads, bins), jnp.int32), weights
        bin_BNt = jnp.searchsorted(jnp.asarray(offset_edges()), self._offsets(rows, key_BNt), side="right")
        is_counted_BNt = jnp.take_along_axis(self.keys[:, None], key_BNt, axis=2)
        return _tally(jnp.where(is_counted_BNt, bin_BNt, bins - 1), counts_Bt, bins), weights

    def _offsets(self, rows: Example, key_BNt: Array) -> Array:
        """Return the position of each row's key minus the query's; of patches, their distance in patches."""
        whole = rows.whole
        assert whole is not None, "rows are taken of counted examples"
        if whole.pixels is None or rows.pixels is None:
            return jnp.take_along_axis(whole.key_positions[:, None], key_BNt, axis=2) - whole.positions[:, None]
        key_BNt2 = jnp.take_along_axis(whole.pixels[:, None], key_BNt[..., None], axis=2)
        squares_BNt = jnp.square(key_BNt2 - rows.pixels[:, None]).sum(axis=-1)
        return jnp.round(jnp.sqrt(squares_BNt) / self.patch).astype(jnp.int32)


def _tally(bin_BNt: Array, counts_Bt: Array, bins: int) -> Array:
    """Return how many counted rows fall into each bin, int `[N,bins]`."""

    def add(total_Nb: Array, example: tuple[Array, Array]) -> tuple[Array, None]:
        bin_Nt, counts_t = example
        hits = (bin_Nt[..., None] == jnp.arange(bins)[None, None]) & counts_t[None, :, None]
        return total_Nb + hits.sum(axis=1, dtype=jnp.int32), None

    return lax.scan(add, jnp.zeros((bin_BNt.shape[1], bins), jnp.int32), (bin_BNt, counts_Bt))[0]


@dataclass(frozen=True)
class TopKeys:
    """A `RowReader` that returns the largest weights of each row, with their keys' columns, `[2,B,N,T,k]`.

    Attributes:
        shape: B, N and T.
        count: k.
    """

    shape: tuple[int, int, int]
    count: int

    def start(self) -> Array:
        """Return the rows before the first block."""
        return jnp.zeros((2, *self.shape, self.count), jnp.float32)

    def add(self, sums: Array, sites: Mapping[str, Array], first: Array | int) -> Array:
        """Return the rows with those from `first` on."""
        weights, keys = lax.top_k(sites["pattern"].astype(jnp.float32), self.count)
        rows_t = first + jnp.arange(weights.shape[2])
        both = jnp.stack([weights, jnp.where(weights > 0, keys.astype(jnp.float32), -1.0)])
        return sums.at[:, :, :, rows_t].set(both, mode="drop")

    def finish(self, sums: Array) -> Any:
        """Return the examples first, `[B,2,N,T,k]`."""
        return jnp.moveaxis(sums, 1, 0)


def summary_reader(stack: Any, examples: Example, queries: Array, keys: Array) -> SummaryReader:
    """Return the reader of a stack's layers."""
    patch = stack.queries.size if stack.queries.kind == "patches" else 1
    return SummaryReader(examples, queries, keys, stack.heads, stack.head_size, patch, stack.is_cross)


def summary_bytes(heads: int, size: int, queries: int, keys: int, rows: int) -> int:
    """Return the bytes that the summaries of one example's layer take, with `rows` query rows at a time."""
    return int(4 * heads * np.sum([6 * rows * keys, 2 * (queries + keys), 3 * queries * size, 2 * size * size]))
