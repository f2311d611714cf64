"""Inputs: what goes into a model, and what its layers need to know about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from .positions import count_positions


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Batch:
    """Token sequences of one length, padded on either side.

    Args:
        tokens: token ids, integers `[B,T]`.
        mask: which tokens are real, `[B,T]`; all of them when left out.
        token_types: segment ids `[B,T]` (BERT's `token_type_ids`); zeros when left out.

    Raises:
        ValueError: for another rank or shape, for token ids that are not integers, an empty batch, or an example
            without a single real token.
    """

    tokens: Array
    mask: Array
    token_types: Array

    def __init__(self, tokens: ArrayLike, mask: ArrayLike | None = None, token_types: ArrayLike | None = None):
        traced = any(isinstance(part, Tracer) for part in (tokens, mask, token_types))
        fields = (_filled if traced else _checked)(tokens, mask, token_types)
        for name, value in zip(("tokens", "mask", "token_types"), fields, strict=True):
            object.__setattr__(self, name, value)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Array], ...], None]:
        """For JAX: the three arrays."""
        names = ("tokens", "mask", "token_types")
        return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names), None

    @classmethod
    def tree_unflatten(cls, _: None, fields: Iterable[Any]) -> "Batch":
        """For JAX: unchecked, for what JAX puts in an array's place (tracers, axes, shapes) is no array."""
        batch = object.__new__(cls)
        for name, value in zip(("tokens", "mask", "token_types"), fields, strict=True):
            object.__setattr__(batch, name, value)
        return batch

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def lengths(self) -> Array:
        """How many real tokens each example has, `[B]`."""
        return self.mask.sum(axis=1, dtype=jnp.int32)

    @property
    def positions(self) -> Array:
        """Each token's place among its example's real tokens, from 0, `[B,T]`; padding gets 0."""
        return count_positions(self.mask)

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real token."""
        T = self.tokens.shape[1]
        return T - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)

    def take(self, examples: ArrayLike) -> "Batch":
        """The batch of these examples, by index."""
        index = np.asarray(examples)
        return jax.tree.map(lambda field: field[index], self)


def _filled(tokens: ArrayLike, mask: ArrayLike | None, token_types: ArrayLike | None) -> tuple[Array, Array, Array]:
    """While tracing: nothing can be seen, so nothing is checked."""
    ids = jnp.asarray(tokens, jnp.int32)
    real = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask, bool)
    types = jnp.zeros(ids.shape, jnp.int32) if token_types is None else jnp.asarray(token_types, jnp.int32)
    return ids, real, types


def _checked(tokens: ArrayLike, mask: ArrayLike | None, token_types: ArrayLike | None) -> tuple[Array, Array, Array]:
    ids = np.asarray(tokens)
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"tokens must be [examples, positions] with at least one of each, got shape {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {ids.dtype}; use model.encode for text")
    real = np.ones(ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    types = np.zeros(ids.shape, np.int32) if token_types is None else np.asarray(token_types)
    if not np.issubdtype(types.dtype, np.integer):
        raise ValueError(f"token_types must be integers, got {types.dtype}")
    for name, part in (("mask", real), ("token_types", types)):
        if part.shape != ids.shape:
            raise ValueError(f"{name} must have the shape of tokens {ids.shape}, got {part.shape}")
    empty = np.flatnonzero(~real.any(axis=1))
    if empty.size:
        raise ValueError(f"every example needs a real token; the mask is empty for examples {empty[:8].tolist()}")
    return jnp.asarray(ids, jnp.int32), jnp.asarray(real), jnp.asarray(types, jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What a layer knows of its input: who may look at whom, and where everybody stands.

    Attributes:
        mask: `[B,T,S]`, True where query T may look at key S.
        queries: positions of the queries `[B,T]`.
        keys: positions of the keys `[B,S]`.
    """

    mask: Array
    queries: Array
    keys: Array

    @staticmethod
    def over(batch: Batch, *, causal: bool) -> "Context":
        """Self-attention over a batch: real keys only and, if causal, none that comes later."""
        B, T = batch.tokens.shape
        mask_BTS = jnp.broadcast_to(batch.mask[:, None, :], (B, T, T))
        if causal:
            mask_BTS = mask_BTS & jnp.tril(jnp.ones((T, T), bool))[None]
        return Context(mask_BTS, batch.positions, batch.positions)

    def after(self, position: int) -> "Context":
        """What the positions from this one on know: all keys to look at, but only their own to make."""
        return Context(self.mask[:, position:], self.queries[:, position:], self.keys[:, position:])

    def rows(self, rows_BR: Array) -> "Context":
        """The same keys, seen from the queries at these rows only."""
        mask_BRS = jnp.take_along_axis(self.mask, rows_BR[:, :, None], axis=1)
        return Context(mask_BRS, jnp.take_along_axis(self.queries, rows_BR, axis=1), self.keys)
