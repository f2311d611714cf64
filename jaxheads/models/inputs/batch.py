"""Inputs: what goes into a model, and what its layers need to know about it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from .axes import Axis, Positions

_FIELDS = ("tokens", "mask", "token_types", "words", "targets", "target_mask", "pixels", "features", "marks")


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Batch:
    """Examples of one shape: token sequences, images, or audio; padded on either side where they are sequences.

    Args:
        tokens: token ids, integers `[B,T]`.
        mask: which tokens are real, `[B,T]`; all of them when left out.
        token_types: segment ids `[B,T]` (BERT's `token_type_ids`); zeros when left out.
        words: the number of the word that each token is a piece of, `[B,T]`; -1 for special tokens. No model reads it.
        targets: the decoder's input of an encoder–decoder, token ids `[B,U]`.
        target_mask: which of them are real, `[B,U]`; all of them when left out.
        pixels: images, normalised as the model wants them, `[B,height,width,C]`. Beside texts there may be another
            number of them: a model that compares the two takes each with each.
        features: log-mel spectrograms, `[B,mels,frames]`.
        marks: by name, what is known of each position, `[B,S]` (a class of tokens: "noun"), or of each query and key,
            `[B,T,S]` (a relation: "head"); numbers or truth values. No model reads them, measures do.

    Raises:
        ValueError: for nothing at all, another rank or shape, token ids that are not integers, pixels or features that
            are not finite, an empty batch, or an example without a single real token.
    """

    tokens: Array
    mask: Array
    token_types: Array
    words: Array | None
    targets: Array | None
    target_mask: Array | None
    pixels: Array | None
    features: Array | None
    marks: dict[str, Array] | None

    def __init__(
        self,
        tokens: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        words: ArrayLike | None = None,
        targets: ArrayLike | None = None,
        target_mask: ArrayLike | None = None,
        pixels: ArrayLike | None = None,
        features: ArrayLike | None = None,
        marks: Mapping[str, ArrayLike] | None = None,
    ):
        given = {
            **_sequence("tokens", tokens, "mask", mask, token_types),
            **_sequence("targets", targets, "target_mask", target_mask),
            "words": _words(words, tokens),
            "pixels": _numbers("pixels", pixels, "[examples, height, width, channels]"),
            "features": _numbers("features", features, "[examples, mels, frames]"),
        }
        counts = {name: len(part) for name, part in given.items() if part is not None}
        if not counts:
            raise ValueError("a batch needs tokens, pixels or features; got none")
        if len({count for name, count in counts.items() if name != "pixels"}) > 1:
            raise ValueError(f"all parts of a batch must have the same number of examples, got {counts}")
        for name in _FIELDS[:-1]:
            object.__setattr__(self, name, given.get(name))
        object.__setattr__(self, "marks", _marks(marks, set(counts.values())))

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Array | None], ...], None]:
        """For JAX: the arrays."""
        return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _FIELDS), None

    @classmethod
    def tree_unflatten(cls, _: None, fields: Iterable[Any]) -> Self:
        """For JAX: unchecked, for what JAX puts in an array's place (tracers, axes, shapes) is no array."""
        batch = object.__new__(cls)
        for name, value in zip(_FIELDS, fields, strict=True):
            object.__setattr__(batch, name, value)
        return batch

    def __len__(self) -> int:
        numbers = {len(field) for name in _FIELDS[:-1] if (field := getattr(self, name)) is not None}
        if len(numbers) > 1:
            assert self.pixels is not None, "no other part may have a number of its own"
            [others] = numbers - {len(self.pixels)}
            raise ValueError(
                f"a batch of {others} texts and {len(self.pixels)} images has no examples of both; "
                "give texts and images one by one, or in batches of their own"
            )
        return numbers.pop() if numbers else 0

    @property
    def lengths(self) -> Array:
        """How many real tokens each example has, `[B]`."""
        return Axis().of(self).lengths

    @property
    def positions(self) -> Array:
        """Each token's place among its example's real tokens, from 0, `[B,T]`; padding gets 0."""
        return Axis().of(self).positions

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real token."""
        return Axis().of(self).last

    def only(self, kind: str) -> "Batch":
        """The part of one kind of positions: of "patches" the images, of "tokens" the texts; and all marks."""
        names = {"tokens": _FIELDS[:4], "targets": _FIELDS[4:6], "patches": ("pixels",), "frames": ("features",)}[kind]
        return self.tree_unflatten(
            None, (getattr(self, name) if name in (*names, "marks") else None for name in _FIELDS)
        )

    def marked(self, marks: Mapping[str, ArrayLike]) -> "Batch":
        """The same examples with these marks in place of theirs; raises as the constructor does."""
        found = _marks(marks, {len(self)})
        return self.tree_unflatten(None, (*(getattr(self, name) for name in _FIELDS[:-1]), found))

    def take(self, examples: ArrayLike) -> "Batch":
        """The batch of these examples, by index.

        Raises:
            ValueError: if it has another number of images than of texts.
        """
        len(self)  # raises
        index = np.asarray(examples)
        return jax.tree.map(lambda field: field[index], self)


def _marks(given: Mapping[str, ArrayLike] | None, counts: set[int]) -> dict[str, Array] | None:
    if not given:
        return None
    found = {}
    for name, mark in given.items():
        if isinstance(mark, Tracer):
            found[name] = mark
            continue
        array = np.asarray(mark)
        if array.ndim not in (2, 3) or len(array) not in counts or array.dtype.kind not in "buif":
            raise ValueError(
                f"the mark {name!r} must be numbers [examples, positions] or [examples, queries, keys], for "
                f"{' or '.join(map(str, sorted(counts)))} examples; got {array.dtype} of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"the mark {name!r} must be finite, got NaN or infinity")
        found[name] = jnp.asarray(array, bool if array.dtype.kind == "b" else jnp.float32)
    return found


def _sequence(
    name: str, ids: ArrayLike | None, mask_name: str, mask: ArrayLike | None, token_types: ArrayLike | None = None
) -> dict[str, Array]:
    """Ids, their mask and, of tokens, their types."""
    if ids is None:
        if mask is not None or token_types is not None:
            raise ValueError(f"{mask_name} and token types belong to {name}: give these as well")
        return {}
    traced = any(isinstance(part, Tracer) for part in (ids, mask, token_types))
    found = (_filled if traced else _checked)(name, ids, mask, token_types)
    return dict(zip((name, mask_name, "token_types")[: 3 if name == "tokens" else 2], found, strict=False))


def _filled(name: str, ids: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None) -> tuple[Array, Array, Array]:
    """While tracing: nothing can be seen, so nothing is checked."""
    del name
    numbers = jnp.asarray(ids, jnp.int32)
    real = jnp.ones(numbers.shape, bool) if mask is None else jnp.asarray(mask, bool)
    kinds = jnp.zeros(numbers.shape, jnp.int32) if types is None else jnp.asarray(types, jnp.int32)
    return numbers, real, kinds


def _checked(name: str, ids: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None) -> tuple[Array, Array, Array]:
    numbers = np.asarray(ids)
    if numbers.ndim != 2 or 0 in numbers.shape:
        raise ValueError(f"{name} must be [examples, positions] with at least one of each, got shape {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {numbers.dtype}; use model.encode for text")
    real = np.ones(numbers.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    kinds = np.zeros(numbers.shape, np.int32) if types is None else np.asarray(types)
    if not np.issubdtype(kinds.dtype, np.integer):
        raise ValueError(f"token_types must be integers, got {kinds.dtype}")
    for part_name, part in (("mask", real), ("token_types", kinds)):
        if part.shape != numbers.shape:
            raise ValueError(f"{part_name} must have the shape of {name} {numbers.shape}, got {part.shape}")
    empty = np.flatnonzero(~real.any(axis=1))
    if empty.size:
        raise ValueError(f"every example needs a real token; the mask is empty for examples {empty[:8].tolist()}")
    return jnp.asarray(numbers, jnp.int32), jnp.asarray(real), jnp.asarray(kinds, jnp.int32)


def _words(words: ArrayLike | None, tokens: ArrayLike | None) -> Array | None:
    if words is None:
        return None
    if tokens is None or np.shape(words) != np.shape(tokens):
        raise ValueError(f"words must have the shape of tokens, got {np.shape(words)}")
    return jnp.asarray(words, jnp.int32)


def _numbers(name: str, given: ArrayLike | None, axes: str) -> Array | None:
    if given is None or isinstance(given, Tracer):
        return None if given is None else jnp.asarray(given)
    array = np.asarray(given)
    if array.ndim != axes.count(",") + 1 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be {axes} of floating point numbers, got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return jnp.asarray(array, jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """What a layer knows of its input: who may look at whom, and where everybody stands.

    Attributes:
        mask: `[B,T,S]`, True where query T may look at key S.
        queries: positions of the queries `[B,T]`.
        keys: positions of the keys that are looked at, `[B,S]`.
        own_keys: positions of those that the layer makes, the last ones: all but in `after`.
        bias: what is added to the scores, `[B|1,N,T|1,S]`, the same in all layers: relative positions, ALiBi.
        memory: `[B,S,D]`, what keys and values are read from; None where it is the stream itself.
        cross: of the cross-attention that follows in every layer, where there is one.
    """

    mask: Array
    queries: Array
    keys: Array
    own_keys: Array
    bias: Array | None = None
    memory: Array | None = None
    cross: "AttentionInputs | None" = None

    @staticmethod
    def within(
        side: Positions, *, causal: bool, bias: Array | None = None, cross: "AttentionInputs | None" = None
    ) -> "AttentionInputs":
        """Self-attention: real keys only and, if causal, none that comes later."""
        B, T = side.shape
        mask_BTS = jnp.broadcast_to(side.mask[:, None, :], (B, T, T))
        if causal:
            mask_BTS = mask_BTS & jnp.tril(jnp.ones((T, T), bool))[None]
        at_BT = side.positions
        return AttentionInputs(mask_BTS, at_BT, at_BT, at_BT, bias, cross=cross)

    @staticmethod
    def over(batch: Batch, *, causal: bool, bias: Array | None = None) -> "AttentionInputs":
        """Self-attention over a batch's tokens."""
        return AttentionInputs.within(Axis().of(batch), causal=causal, bias=bias)

    @staticmethod
    def between(queries: Positions, keys: Positions, memory_BSD: Array) -> "AttentionInputs":
        """Cross-attention: every query sees every real key."""
        mask_BTS = jnp.broadcast_to(keys.mask[:, None, :], (*queries.shape, keys.shape[1]))
        return AttentionInputs(mask_BTS, queries.positions, keys.positions, keys.positions, memory=memory_BSD)

    def after(self, position: int) -> "AttentionInputs":
        """What the positions from this one on know: all keys to look at, but only their own to make."""
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:
            bias = bias[:, :, position:]
        cross = None if self.cross is None else self.cross.after(position)
        own_keys = self.own_keys[:, position:] if self.memory is None else self.own_keys
        return replace(
            self,
            mask=self.mask[:, position:],
            queries=self.queries[:, position:],
            own_keys=own_keys,
            bias=bias,
            cross=cross,
        )

    def rows(self, rows_BR: Array) -> "AttentionInputs":
        """The same keys, seen from the queries at these rows only."""
        mask_BRS = jnp.take_along_axis(self.mask, rows_BR[:, :, None], axis=1)
        queries_BR = jnp.take_along_axis(self.queries, rows_BR, axis=1)
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:
            bias = jnp.broadcast_to(bias, (rows_BR.shape[0], *bias.shape[1:]))
            bias = jnp.take_along_axis(bias, rows_BR[:, None, :, None], axis=2)
        cross = None if self.cross is None else self.cross.rows(rows_BR)
        return replace(self, mask=mask_BRS, queries=queries_BR, bias=bias, cross=cross)
