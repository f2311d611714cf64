"""An example as a metric sees it: its tokens, masks, distances and marks, beside one head's pattern.

Dimension key: B batch, T query positions, t query positions of some rows, S key positions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...models.inputs.batch import Batch, count_positions
from ...models.stack import Stack

NEEDS = ("any", "places", "order", "ids")
"""Properties of positions that a metric may need, each including those before it: none; queries and keys are the same
positions, at distances from each other; they have an order; they have token ids."""


class Whole(NamedTuple):
    """What some query rows read of their whole example, counted once for all blocks of rows.

    Attributes:
        rows: the number of each query row, `[t]`; those beyond the last query are filler.
        positions: positions of these queries, counted over real ones from 0, `[t]`; padding gets 0.
        query_count: number of real queries of the whole example.
        key_positions: positions of the keys, `[S]`; padding gets 0.
        ordered: id of the n-th real token, `[T]`; None where positions are not tokens.
        tokens, pixels, patch: as those of `Example`, of the keys.
    """

    rows: Array
    positions: Array
    query_count: Array
    key_positions: Array
    ordered: Array | None
    tokens: Array | None
    pixels: Array | None
    patch: Array | None


class Example(NamedTuple):
    """The positions of one example. `examples_of` gives a whole batch of them, each field with a leading axis B.

    A metric that reads a pattern by rows (`ByRows`) gets an example of these rows alone: t of the T queries, and all S
    keys. All that a query has is then `[t]`; what a key has is `[S]` and has its own name (`keys`, `key_positions`).

    Attributes:
        tokens: token ids of the queries, `[T]`; None where positions are not tokens.
        mask: which queries are real, bool `[T]`.
        key_mask: which keys are real, bool `[S]`; None where keys are the queries' own positions.
        pixels: row and column of each patch in its image, in pixels, `[T,2]`; None where positions are not patches.
        patch: which positions are patches and not special tokens, bool `[T]`.
        marks: the batch's marks by name, each `[S]` or `[T,S]`.
        sink: True where heads have learnt sinks: what a row lacks to 1 then went to the sink. None where rows sum to 1.
        whole: what is read of the whole example, where this is one of some rows; None where all is there.
    """

    tokens: Array | None
    mask: Array
    key_mask: Array | None = None
    pixels: Array | None = None
    patch: Array | None = None
    marks: Mapping[str, Array] | None = None
    sink: Array | None = None
    whole: Whole | None = None

    @property
    def _whole(self) -> Whole:
        if self.whole is not None:
            return self.whole
        return jax.tree.map(lambda field: field[0], _whole_of(jax.tree.map(lambda field: field[None], self)))

    @property
    def keys(self) -> Array:
        """Mask of the real keys, bool `[S]`."""
        return self.mask if self.key_mask is None else self.key_mask

    @property
    def key_positions(self) -> Array:
        """Positions of the keys, counted over real ones from 0, `[S]`; padding gets 0."""
        return self._whole.key_positions

    @property
    def key_tokens(self) -> Array:
        """Token ids of the keys, `[S]`, of a text that looks at itself."""
        tokens_S = self._whole.tokens
        assert tokens_S is not None, "measure checks that positions have ids"
        return tokens_S

    @property
    def positions(self) -> Array:
        """Positions of the queries, counted over real ones from 0, `[T]`; padding gets 0."""
        return self._whole.positions

    @property
    def length(self) -> Array:
        """Number of real keys."""
        return self.keys.sum(dtype=jnp.int32)

    @property
    def query_count(self) -> Array:
        """Number of real queries of the whole example, also where this is one of some rows."""
        return self._whole.query_count

    @property
    def rows(self) -> Array:
        """The number of each query row in the whole example, `[T]`."""
        return self._whole.rows

    @property
    def distances(self) -> Array:
        """Distance of query and key, `[T,S]`: in real tokens, or in pixels between the centres of patches."""
        if self.pixels is None:
            return jnp.abs(self.offsets).astype(jnp.float32)
        key_pixels_S2 = self._whole.pixels
        assert key_pixels_S2 is not None
        difference_TS2 = self.pixels[:, None] - key_pixels_S2[None]
        return jnp.sqrt(jnp.square(difference_TS2).sum(axis=-1))

    @property
    def offsets(self) -> Array:
        """Position of the key minus position of the query, `[T,S]`."""
        return self.key_positions[None, :] - self.positions[:, None]

    @property
    def pairs(self) -> Array:
        """Mask of the pairs in which query and key are real, bool `[T,S]`."""
        return self.mask[:, None] & self.keys[None, :]

    @property
    def pairs_with_distance(self) -> Array:
        """Mask of the real pairs that have a distance, bool `[T,S]`: an image's special tokens have none."""
        key_patch_S = self._whole.patch
        if self.patch is None or key_patch_S is None:
            return self.pairs
        return self.pairs & self.patch[:, None] & key_patch_S[None, :]

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

    def query_mark(self, name: str) -> Array:
        """Return whether each query has a mark of positions, bool `[T]`."""
        mark_S = self.raw_mark(name).astype(bool)
        return mark_S if self.whole is None else jnp.take(mark_S, self.rows, mode="clip")

    def mark(self, name: str) -> Array:
        """Return a mark as a weight of each query and key, float32 `[T,S]`, 0 where either is padding."""
        weight = self.raw_mark(name).astype(jnp.float32)
        return jnp.where(self.pairs, weight if weight.ndim == 2 else weight[None, :], 0.0)

    def neighbours(self, offset: int) -> tuple[Array, Array]:
        """Return each query's token `offset` real positions later, `[T]`, and whether that position exists, `[T]`."""
        return self._tokens_at(self.positions + offset, self.mask)

    def key_neighbours(self, offset: int) -> tuple[Array, Array]:
        """Return each key's token `offset` real positions later, `[S]`, and whether that position exists, `[S]`."""
        return self._tokens_at(self.key_positions + offset, self.keys)

    def _tokens_at(self, position: Array, mask: Array) -> tuple[Array, Array]:
        whole = self._whole
        assert whole.ordered is not None, "measure checks that positions have ids"
        exists = mask & (position >= 0) & (position < whole.query_count)
        return whole.ordered[jnp.clip(position, 0, len(whole.ordered) - 1)], exists


def counted(examples: Example) -> Example:
    """Return a batch's examples with all that blocks of their rows read, counted once."""
    return examples if examples.whole is not None else examples._replace(whole=_whole_of(examples))


def rows_of(examples: Example, first: Array | int, count: int) -> Example:
    """Return `count` query rows of a batch's examples, as `counted` gives them, from row `first` on.

    Rows beyond the last are no real queries.
    """
    assert examples.whole is not None, "positions are counted before rows are taken"
    T = examples.mask.shape[1]
    if count == T:
        return examples
    rows_t = first + jnp.arange(count)
    is_row_1t = (rows_t < T)[None]

    def take(of_queries: Array) -> Array:
        return jnp.take(of_queries, rows_t, axis=1, mode="clip")

    tokens, mask, pixels, patch, positions = jax.tree.map(
        take, (examples.tokens, examples.mask, examples.pixels, examples.patch, examples.whole.positions)
    )
    marks = {name: mark if mark.ndim == 2 else take(mark) for name, mark in (examples.marks or {}).items()}
    numbers_Bt = jnp.broadcast_to(rows_t, mask.shape)
    whole = examples.whole._replace(rows=numbers_Bt, positions=jnp.where(is_row_1t, positions, 0))
    return Example(tokens, mask & is_row_1t, examples.keys, pixels, patch, marks or None, examples.sink, whole)


def _whole_of(examples: Example) -> Whole:
    """Return what rows read of a batch's whole examples."""
    B, T = examples.mask.shape
    positions_BT, ordered_BT, own = count_positions(examples.mask), None, examples.key_mask is None
    if examples.tokens is not None:
        column_BT = jnp.argsort(~examples.mask, axis=1, stable=True)  # of the n-th real token
        ordered_BT = jnp.take_along_axis(examples.tokens, column_BT, axis=1)
    return Whole(
        rows=jnp.broadcast_to(jnp.arange(T), (B, T)),
        positions=positions_BT,
        query_count=examples.mask.sum(axis=1, dtype=jnp.int32),
        key_positions=positions_BT if own else count_positions(examples.keys),
        ordered=ordered_BT,
        tokens=examples.tokens if own else None,
        pixels=examples.pixels,
        patch=examples.patch,
    )


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
