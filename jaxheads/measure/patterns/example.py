"""An example as a metric sees it: its tokens, masks, distances and marks, beside one head's pattern.

Dimension key: B batch, T query positions, S key positions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...models.inputs.batch import Batch, count_positions
from ...models.stack import Stack

NEEDS = ("any", "places", "order", "ids")
"""Properties of positions that a metric may need, each including those before it: none; queries and keys are the same
positions, at distances from each other; they have an order; they have token ids."""


class Example(NamedTuple):
    """The positions of one example. `examples_of` gives a whole batch of them, each field with a leading axis B.

    Attributes:
        tokens: token ids of the queries, `[T]`; None where positions are not tokens.
        mask: which queries are real, bool `[T]`.
        key_mask: which keys are real, bool `[S]`; None where keys are the queries' own positions.
        pixels: row and column of each patch in its image, in pixels, `[T,2]`; None where positions are not patches.
        patch: which positions are patches and not special tokens, bool `[T]`.
        marks: the batch's marks by name, each `[S]` or `[T,S]`.
        sink: True where heads have learnt sinks: what a row lacks to 1 then went to the sink. None where rows sum to 1.
    """

    tokens: Array | None
    mask: Array
    key_mask: Array | None = None
    pixels: Array | None = None
    patch: Array | None = None
    marks: Mapping[str, Array] | None = None
    sink: Array | None = None

    @property
    def keys(self) -> Array:
        """Mask of the real keys, bool `[S]`."""
        return self.mask if self.key_mask is None else self.key_mask

    @property
    def key_positions(self) -> Array:
        """Positions of the keys, counted over real ones from 0, `[S]`; padding gets 0."""
        return count_positions(self.keys[None])[0]

    @property
    def positions(self) -> Array:
        """Positions of the queries, counted over real ones from 0, `[T]`; padding gets 0."""
        return count_positions(self.mask[None])[0]

    @property
    def length(self) -> Array:
        """Number of real keys."""
        return self.keys.sum(dtype=jnp.int32)

    @property
    def distances(self) -> Array:
        """Distance of query and key, `[T,S]`: in real tokens, or in pixels between the centres of patches."""
        if self.pixels is None:
            return jnp.abs(self.offsets).astype(jnp.float32)
        difference_TS2 = self.pixels[:, None] - self.pixels[None]
        return jnp.sqrt(jnp.square(difference_TS2).sum(axis=-1))

    @property
    def offsets(self) -> Array:
        """Position of the key minus position of the query, `[T,S]`."""
        return self.positions[None, :] - self.positions[:, None]

    @property
    def pairs(self) -> Array:
        """Mask of the pairs in which query and key are real, bool `[T,S]`."""
        return self.mask[:, None] & self.keys[None, :]

    @property
    def pairs_with_distance(self) -> Array:
        """Mask of the real pairs that have a distance, bool `[T,S]`: an image's special tokens have none."""
        return self.pairs if self.patch is None else self.pairs & self.patch[:, None] & self.patch[None, :]

    @property
    def last_key(self) -> Array:
        """Mask of the last real key, bool `[S]`."""
        return self.keys & (self.key_positions == self.length - 1)

    def to_sink(self, pattern_TS: Array) -> Array:
        """Return each query's attention to the learnt sink, `[T]`: 1 − Σ_k A, or 0 without a sink."""
        if self.sink is None:
            return jnp.zeros_like(pattern_TS[:, 0])
        rest_T = 1 - jnp.where(self.keys[None, :], pattern_TS, 0.0).sum(axis=1)
        return jnp.where(self.mask & self.sink, jnp.maximum(rest_T, 0.0), 0.0)

    def raw_mark(self, name: str) -> Array:
        """Return a mark in the batch's own dtype and shape, `[S]` or `[T,S]`."""
        assert self.marks is not None, "measure checks that the batch has the marks that metrics read"
        return self.marks[name]

    def mark(self, name: str) -> Array:
        """Return a mark as a weight of each query and key, float32 `[T,S]`, 0 where either is padding."""
        weight = self.raw_mark(name).astype(jnp.float32)
        return jnp.where(self.pairs, weight if weight.ndim == 2 else weight[None, :], 0.0)

    def neighbours(self, offset: int) -> tuple[Array, Array]:
        """Return each query's token `offset` real positions later, `[T]`, and whether that position exists, `[T]`."""
        assert self.tokens is not None
        column_T = jnp.argsort(~self.mask, stable=True)  # of the n-th real token
        position_T = self.positions + offset
        exists_T = self.mask & (position_T >= 0) & (position_T < self.length)
        return self.tokens[column_T[jnp.clip(position_T, 0, self.tokens.shape[0] - 1)]], exists_T


@checked()
def examples_of(stack: Stack, batch: Batch) -> Example:
    """Return the positions of a batch in one stack, every field with a leading axis of examples."""
    queries, keys = stack.queries.of(batch), stack.keys.of(batch)
    sink_B = None if stack.sinks is None else jnp.ones(len(batch), bool)
    if stack.queries.kind != "patches":
        key_mask = keys.mask if stack.is_cross else None
        return Example(queries.ids, queries.mask, key_mask, marks=batch.marks, sink=sink_B)
    specials, (rows, columns) = len(stack.queries.specials), stack.queries.grid(batch)
    centres_T2 = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(-1, 2) * float(stack.queries.size)
    pixels_T2 = np.concatenate([np.zeros((specials, 2)), centres_T2]).astype(np.float32)
    patch_T = np.arange(len(pixels_T2)) >= specials
    pixels_BT2, patch_BT = (jnp.broadcast_to(field, (len(batch), *field.shape)) for field in (pixels_T2, patch_T))
    return Example(None, queries.mask, None, pixels_BT2, patch_BT, batch.marks, sink_B)
