"""What attention reads beside the stream: masks and positions as descriptions, of which any query rows can be taken.

Dimension key: B examples, T query positions, R chosen ones, S key positions, N heads, D model dimension.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from .batch import Batch, Positions
from .masks import Mask
from .query_rows import Take, rows_from, rows_of_examples, taken


@runtime_checkable
class RowBias(Protocol):
    """A bias of the scores that is made of queries and keys, for any query rows."""

    def __call__(self, q_BTNH: Array, k_BSKH: Array) -> Array:
        """Return the bias, `[B|1,N,T|1,S]`, of these queries and all keys as they are used."""
        ...

    def rows(self, take: Take) -> "RowBias":
        """Return the bias of the chosen queries."""
        ...


def bias_rows(bias: Array | RowBias | None, take: Take) -> Array | RowBias | None:
    """Return the bias of the chosen queries; an array has the axes `[B|1,N,T|1,S]`."""
    if bias is None or isinstance(bias, RowBias):
        return None if bias is None else bias.rows(take)
    return taken(bias, take, 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RelativePositions:
    """Embeddings of relative positions, which each layer projects, for the position terms of its scores (DeBERTa).

    Attributes:
        embedding: `[R,D]`; its middle row is that of distance 0, and its later rows are of earlier keys.
        distances: row of each distance, counted from that of distance 0, `[T]`.
        queries, keys: positions, `[B,T]` and `[B,S]`.
    """

    embedding: Array
    distances: Array
    queries: Array
    keys: Array

    @property
    def index(self) -> Array:
        """The row of the embedding for each query and key, `[B,T,S]`."""
        offsets_BTS = self.queries[:, :, None] - self.keys[:, None, :]
        away_BTS = jnp.minimum(jnp.abs(offsets_BTS), len(self.distances) - 1)
        rows_BTS = jnp.sign(offsets_BTS) * self.distances[away_BTS]
        last = self.embedding.shape[0] - 1
        return jnp.clip(rows_BTS + (last + 1) // 2, 0, last)

    def rows(self, take: Take) -> "RelativePositions":
        """Return the relative positions of the chosen queries."""
        return replace(self, queries=take(self.queries, 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """Inputs of attention beside the stream, shared by all layers of a stack.

    Attributes:
        mask: the keys that each query may attend to, as a description; `visible` is the whole mask.
        queries: positions of the queries, `[B,T]`.
        keys: positions of all keys, `[B,S]`.
        own_keys: positions of the keys that the layer computes from its stream (or memory). All keys, except after
            `after`, where the earlier ones come from a cache.
        bias: bias of the scores, `[B|1,N,T|1,S]`, for relative positions and ALiBi, or a `RowBias`; or None.
        memory: the encoder's output `[B,S,D]`, from which cross-attention reads keys and values; else None.
        cross: inputs of the cross-attention that follows in every layer, or None.
        relative: relative positions that the scores compare with queries and keys, or None.
    """

    mask: Mask
    queries: Array
    keys: Array
    own_keys: Array
    bias: Array | RowBias | None = None
    memory: Array | None = None
    cross: "AttentionInputs | None" = None
    relative: RelativePositions | None = None

    @staticmethod
    def within(
        positions: Positions,
        *,
        causal: bool,
        bias: Array | RowBias | None = None,
        cross: "AttentionInputs | None" = None,
    ) -> "AttentionInputs":
        """Return the inputs of self-attention over real keys; with `causal`, over no later ones."""
        columns_1T, first = (jnp.arange(positions.shape[1])[None], 0) if causal else (None, None)
        texts = None if positions.segments is None else (positions.segments, positions.segments)
        positions_BT, mask = positions.positions, Mask(positions.mask, columns_1T, texts, first=first)
        return AttentionInputs(mask, positions_BT, positions_BT, positions_BT, bias, cross=cross)

    @staticmethod
    def over(
        batch: Batch, *, causal: bool, bias: Array | RowBias | None = None, relative: RelativePositions | None = None
    ) -> "AttentionInputs":
        """Return the inputs of self-attention over a batch's tokens."""
        positions = Positions(batch.mask, segments=batch.segments)
        return replace(AttentionInputs.within(positions, causal=causal, bias=bias), relative=relative)

    @staticmethod
    def between(queries: Positions, keys: Positions, memory_BSD: Array) -> "AttentionInputs":
        """Return the inputs of cross-attention, in which every query sees every real key."""
        return AttentionInputs(Mask(keys.mask), queries.positions, keys.positions, keys.positions, memory=memory_BSD)

    @property
    def visible(self) -> Array:
        """Whether each query may attend to each key, bool `[B,T,S]`, whole: for attention that is not in blocks."""
        return jnp.broadcast_to(self.mask.array(), (*self.queries.shape, self.keys.shape[1]))

    def after(self, position: int) -> "AttentionInputs":
        """Restrict the queries to positions ≥ `position`. They still see all keys, but compute only their own."""
        own_keys = self.own_keys[:, position:] if self.memory is None else self.own_keys
        cross = None if self.cross is None else self.cross.after(position)
        inputs = self.taking(rows_from(position))
        return replace(inputs, mask=self.mask.after(position), own_keys=own_keys, cross=cross)

    def rows(self, rows_BR: Array) -> "AttentionInputs":
        """Restrict the queries to these positions `[B,R]` of each example; keys stay."""
        return self.taking(rows_of_examples(rows_BR))

    def taking(self, take: Take) -> "AttentionInputs":
        """Restrict the queries to the chosen ones; keys stay."""
        return replace(
            self,
            mask=self.mask.rows(take),
            queries=take(self.queries, 1),
            bias=bias_rows(self.bias, take),
            cross=None if self.cross is None else self.cross.taking(take),
            relative=None if self.relative is None else self.relative.rows(take),
        )
