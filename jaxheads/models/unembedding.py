"""From features to the vocabulary: all logits, some of them, or one token's log-probability."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

PIECE = 4096
"""Columns gone through at a time, at most."""


class Unembedding(NamedTuple):
    """The map from features to the vocabulary: weight `[V,D]`, bias `[V]` or None; with a `cap`, logits are bounded to
    `cap * tanh(logits / cap)` (Gemma 2)."""

    weight: Array
    bias: Array | None = None
    cap: float | None = None

    def logits(self, x_BTD: Array, columns_BC: Array | None = None) -> Array:
        """Logits `[B,T,V]`, or only those of each example's own `columns` (token ids): `[B,T,C]`, in float32.

        They are there to be subtracted from each other: of two near 20, bfloat16 would tell no difference below
        an eighth.
        """
        if columns_BC is None:
            bias_11V = None if self.bias is None else self.bias[None, None]
            return self._finish(_product("btd,vd->btv", x_BTD, self.weight), bias_11V)
        bias_B1C = None if self.bias is None else self.bias[columns_BC][:, None]
        return self._finish(_product("btd,bcd->btc", x_BTD, self.weight[columns_BC]), bias_B1C)

    def log_probability(self, x_BTD: Array, target_BT: Array) -> Array:
        """Log-probability of one token at each position, float32 `[B,T]`.

        The vocabulary is gone through in pieces, so that no `[B,T,V]` is ever held: on CPU that is also faster. A
        piece is every n-th column, so that where devices each hold a part of the vocabulary (see `sharding`), each
        does its share of every piece, and none needs the others' weights.
        """
        B, T, D = x_BTD.shape
        x_ID = x_BTD.reshape(B * T, D)
        right_I = self._one(x_ID, self.weight[target_BT.reshape(-1)], target_BT.reshape(-1))
        pieces = _pieces(self.weight.shape[0])
        size = self.weight.shape[0] // pieces

        def step(piece: Array, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            weight_CPD = self.weight[: size * pieces].reshape(size, pieces, D)
            weight_CD = jax.lax.dynamic_index_in_dim(weight_CPD, piece, axis=1, keepdims=False)
            return _accumulate(so_far, self._columns(x_ID, weight_CD, piece + pieces * jnp.arange(size)))

        lowest = jnp.full_like(right_I, jnp.finfo(right_I.dtype).min)
        so_far = jax.lax.fori_loop(0, pieces, step, (lowest, jnp.zeros_like(right_I)))
        if size * pieces < self.weight.shape[0]:
            columns_C = jnp.arange(size * pieces, self.weight.shape[0])
            so_far = _accumulate(so_far, self._columns(x_ID, self.weight[columns_C], columns_C))
        return (right_I - so_far[0] - jnp.log(so_far[1])).reshape(B, T)

    def rank(self, x_BTD: Array, target_BT: Array) -> Array:
        """How many columns have a larger logit than one token's, at each position: int32 `[B,T]`, 0 for the largest.

        Gone through in pieces, as in `log_probability`. Columns equal to the token's up to rounding are not larger.
        """
        B, T, D = x_BTD.shape
        x_ID, target_I = x_BTD.reshape(B * T, D), target_BT.reshape(-1)
        right_I1 = self._one(x_ID, self.weight[target_I], target_I)[:, None]
        margin_I1 = (
            4 * jnp.finfo(right_I1.dtype).eps * jnp.abs(right_I1)
        )  # two products of the same may be rounded apart
        pieces = _pieces(self.weight.shape[0])
        size = self.weight.shape[0] // pieces

        def larger(weight_CD: Array, columns_C: Array) -> Array:
            above_IC = self._columns(x_ID, weight_CD, columns_C) > right_I1 + margin_I1
            return (above_IC & (columns_C[None] != target_I[:, None])).sum(axis=1, dtype=jnp.int32)

        def step(piece: Array, so_far_I: Array) -> Array:
            weight_CPD = self.weight[: size * pieces].reshape(size, pieces, D)
            weight_CD = jax.lax.dynamic_index_in_dim(weight_CPD, piece, axis=1, keepdims=False)
            return so_far_I + larger(weight_CD, piece + pieces * jnp.arange(size))

        found_I = jax.lax.fori_loop(0, pieces, step, jnp.zeros(B * T, jnp.int32))
        if size * pieces < self.weight.shape[0]:
            columns_C = jnp.arange(size * pieces, self.weight.shape[0])
            found_I = found_I + larger(self.weight[columns_C], columns_C)
        return found_I.reshape(B, T)

    def _columns(self, x_ID: Array, weight_CD: Array, columns_C: Array) -> Array:
        bias_1C = None if self.bias is None else self.bias[columns_C][None]
        return self._finish(_product("id,cd->ic", x_ID, weight_CD), bias_1C)

    def _one(self, x_ID: Array, weight_ID: Array, column_I: Array) -> Array:
        bias_I = None if self.bias is None else self.bias[column_I]
        return self._finish(_product("id,id->i", x_ID, weight_ID), bias_I)

    def _finish(self, products: Array, bias: Array | None) -> Array:
        """Logits of products: their bias, which has as many axes, and the cap."""
        logits = products if bias is None else products + bias.astype(products.dtype)
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


def _product(subscripts: str, x: Array, weight: Array) -> Array:
    """In float32 from any shorter dtype: summed and kept so."""
    return jnp.einsum(subscripts, x, weight, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _pieces(columns: int) -> int:
    """Into how many pieces the columns go: the fewest that leave no rest, unless that takes far more than needed."""
    fewest = -(-columns // PIECE)
    return next((pieces for pieces in range(fewest, 4 * fewest) if columns % pieces == 0), fewest)


def _accumulate(so_far: tuple[Array, Array], logits_IC: Array) -> tuple[Array, Array]:
    """The running maximum and sum of exponentials, with these columns added."""
    highest_I = jnp.maximum(so_far[0], logits_IC.max(axis=1))
    kept_I = so_far[1] * jnp.exp(so_far[0] - highest_I)
    return highest_I, kept_I + jnp.exp(logits_IC - highest_I[:, None]).sum(axis=1)
