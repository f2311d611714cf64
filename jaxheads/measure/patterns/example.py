"""What a metric is told of an example beside the head's pattern.

Dimension key: B batch, T query positions, S key positions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch, count_positions
from ...models.stack import Stack

NEEDS = ("any", "places", "order", "ids")
"""What a metric may need of the positions: nothing; that queries and keys are the same positions, with distances; that
these have an order; that they have ids. Each includes those before it."""


class Example(NamedTuple):
    """One example.

    Attributes:
        tokens: ids of the queries, `[T]`, where they have any.
        mask: which queries are real, `[T]`.
        seen: which keys are real, `[S]`, where they are other positions.
        pixels: where patches are in an image, row and column in pixels, `[T,2]`.
        patch: which positions are patches, not special tokens, `[T]`.
        marks: what the batch says of its positions, each `[S]` or `[T,S]`.
    """

    tokens: Array | None
    mask: Array
    seen: Array | None = None
    pixels: Array | None = None
    patch: Array | None = None
    marks: Mapping[str, Array] | None = None

    @property
    def keys(self) -> Array:
        """Which keys are real, `[S]`."""
        return self.mask if self.seen is None else self.seen

    @property
    def key_positions(self) -> Array:
        """Places of the keys among the real ones, `[S]`."""
        return count_positions(self.keys[None])[0]

    @property
    def positions(self) -> Array:
        """Places among the real tokens, from 0, `[T]`; padding gets 0."""
        return count_positions(self.mask[None])[0]

    @property
    def length(self) -> Array:
        """How many keys are real."""
        return self.keys.sum(dtype=jnp.int32)

    @property
    def steps(self) -> Array:
        """How far apart query and key are, `[T,S]`: in real tokens; between patches in pixels, centre to centre."""
        if self.pixels is None:
            return jnp.abs(self.offsets).astype(jnp.float32)
        apart_TS2 = self.pixels[:, None] - self.pixels[None]
        return jnp.sqrt(jnp.square(apart_TS2).sum(axis=-1))

    @property
    def offsets(self) -> Array:
        """Position of the key minus position of the query, `[T,S]`."""
        return self.positions[None, :] - self.positions[:, None]

    @property
    def pairs(self) -> Array:
        """Where both query and key are real, `[T,S]`."""
        return self.mask[:, None] & self.keys[None, :]

    @property
    def apart(self) -> Array:
        """Where query and key are real and have a distance, `[T,S]`: special tokens of an image have no place."""
        return self.pairs if self.patch is None else self.pairs & self.patch[:, None] & self.patch[None, :]

    @property
    def last(self) -> Array:
        """Which key is the last real one, `[S]`."""
        return self.keys & (self.key_positions == self.length - 1)

    def given(self, name: str) -> Array:
        """A mark as the batch has it."""
        assert self.marks is not None, "measure checks that the batch has the marks that metrics read"
        return self.marks[name]

    def mark(self, name: str) -> Array:
        """A mark as a weight of each query and key, float32 `[T,S]`, 0 where either is padding."""
        given = self.given(name).astype(jnp.float32)
        return jnp.where(self.pairs, given if given.ndim == 2 else given[None, :], 0.0)

    def neighbours(self, offset: int) -> tuple[Array, Array]:
        """Of each place the token `offset` real positions on, and whether there is one; both `[T]`."""
        assert self.tokens is not None
        place_T = jnp.argsort(~self.mask, stable=True)
        wanted_T = self.positions + offset
        there_T = self.mask & (wanted_T >= 0) & (wanted_T < self.length)
        return self.tokens[place_T[jnp.clip(wanted_T, 0, self.tokens.shape[0] - 1)]], there_T


def examples_of(stack: Stack, batch: Batch) -> Example:
    """What a stack's positions are in each example, with a leading axis of the batch."""
    queries, keys = stack.queries.of(batch), stack.keys.of(batch)
    if stack.queries.kind != "patches":
        return Example(queries.ids, queries.mask, keys.mask if stack.is_cross else None, marks=batch.marks)
    specials, (rows, columns) = len(stack.queries.specials), stack.queries.grid(batch)
    centres_T2 = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(-1, 2) * float(stack.queries.size)
    pixels_T2 = np.concatenate([np.zeros((specials, 2)), centres_T2]).astype(np.float32)
    patch_T = np.arange(len(pixels_T2)) >= specials
    pixels_BT2, patch_BT = (jnp.broadcast_to(part, (len(batch), *part.shape)) for part in (pixels_T2, patch_T))
    return Example(None, queries.mask, None, pixels_BT2, patch_BT, batch.marks)
