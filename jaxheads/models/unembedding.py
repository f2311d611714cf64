"""The map from features to the vocabulary: all logits, chosen ones, or one token's log-probability or rank.

Dimension key: B examples, T positions, I = B * T, D features, V vocabulary, C columns (of the vocabulary).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from ..precision import products
from .row_chunks import in_row_chunks

State = TypeVar("State")

COLUMNS_AT_ONCE = 4096
"""Columns of the vocabulary whose logits are held at a time, at most."""


ROWS_AT_ONCE = 8192
"""Rows (positions of all examples) whose logits are held at a time, at most."""


def rows_at_once(examples: int) -> int:
    """Return how many positions of each example make at most `ROWS_AT_ONCE` rows."""
    return max(1, ROWS_AT_ONCE // examples)


class Unembedding(NamedTuple):
    """A linear map from features to logits.

    Attributes:
        weight: `[V,D]`.
        bias: `[V]`, or None.
        cap: if any, logits become `cap * tanh(logits / cap)` (Gemma 2).
    """

    weight: Array
    bias: Array | None = None
    cap: float | None = None

    def logits(self, x_BTD: Array, columns_BC: Array | None = None) -> Array:
        """Return logits `[B,T,V]`, or only each example's `columns` (token ids), `[B,T,C]`; float32 at least."""
        # Logits get subtracted from each other, and near 20 the steps of bfloat16 are an eighth.
        if columns_BC is None:
            bias_11V = None if self.bias is None else self.bias[None, None]
            return self._finish(_product("btd,vd->btv", x_BTD, self.weight), bias_11V)
        bias_B1C = None if self.bias is None else self.bias[columns_BC][:, None]
        return self._finish(_product("btd,bcd->btc", x_BTD, self.weight[columns_BC]), bias_B1C)

    def log_probability(self, x_BTD: Array, target_BT: Array) -> Array:
        """Return the log-probability of one token at each position, float32 at least, `[B,T]`.

        The vocabulary is scanned in slices, so that no `[B,T,V]` is ever held; on CPU that is also faster.
        """
        return in_row_chunks(self._log_probability, rows_at_once(len(x_BTD)), x_BTD, target_BT)

    def _log_probability(self, x_BTD: Array, target_BT: Array) -> Array:
        B, T, D = x_BTD.shape
        x_ID, target_I = x_BTD.reshape(B * T, D), target_BT.reshape(-1)
        target_logit_I = self._token_logits(x_ID, self.weight[target_I], target_I)

        def add(running: tuple[Array, Array], weight_CD: Array, columns_C: Array) -> tuple[Array, Array]:
            return _log_sum_exp_step(running, self._column_logits(x_ID, weight_CD, columns_C))

        lowest = jnp.full_like(target_logit_I, jnp.finfo(target_logit_I.dtype).min)
        highest_I, sum_I = self._scan(add, (lowest, jnp.zeros_like(target_logit_I)))
        return (target_logit_I - highest_I - jnp.log(sum_I)).reshape(B, T)

    def rank(self, x_BTD: Array, target_BT: Array) -> Array:
        """Count the columns with a larger logit than one token's, at each position: int32 `[B,T]`, 0 for the largest.

        Columns equal to the token's up to rounding are not larger. The vocabulary is scanned in slices.
        """
        return in_row_chunks(self._rank, rows_at_once(len(x_BTD)), x_BTD, target_BT)

    def _rank(self, x_BTD: Array, target_BT: Array) -> Array:
        B, T, D = x_BTD.shape
        x_ID, target_I = x_BTD.reshape(B * T, D), target_BT.reshape(-1)
        target_logit_I1 = self._token_logits(x_ID, self.weight[target_I], target_I)[:, None]
        # The two products of one column, here and in the scan, may round differently.
        margin_I1 = 4 * jnp.finfo(target_logit_I1.dtype).eps * jnp.abs(target_logit_I1)

        def add(count_I: Array, weight_CD: Array, columns_C: Array) -> Array:
            above_IC = self._column_logits(x_ID, weight_CD, columns_C) > target_logit_I1 + margin_I1
            return count_I + (above_IC & (columns_C[None] != target_I[:, None])).sum(axis=1, dtype=jnp.int32)

        return self._scan(add, jnp.zeros(B * T, jnp.int32)).reshape(B, T)

    def _scan(self, add: Callable[[State, Array, Array], State], state: State) -> State:
        """Fold `add(state, weight [C,D], columns [C])` over slices of the vocabulary; return the last state."""
        V, D = self.weight.shape
        slices = _slices(V)
        size = V // slices

        # A slice is every n-th column: where devices each hold a part of the vocabulary (see `sharding`), each computes
        # its share of every slice, and needs no other's weights.
        def step(index: Array, state: State) -> State:
            weight_CPD = self.weight[: size * slices].reshape(size, slices, D)
            weight_CD = jax.lax.dynamic_index_in_dim(weight_CPD, index, axis=1, keepdims=False)
            return add(state, weight_CD, index + slices * jnp.arange(size))

        state = jax.lax.fori_loop(0, slices, step, state)
        if size * slices < V:
            columns_C = jnp.arange(size * slices, V)
            state = add(state, self.weight[columns_C], columns_C)
        return state

    def _column_logits(self, x_ID: Array, weight_CD: Array, columns_C: Array) -> Array:
        bias_1C = None if self.bias is None else self.bias[columns_C][None]
        return self._finish(_product("id,cd->ic", x_ID, weight_CD), bias_1C)

    def _token_logits(self, x_ID: Array, weight_ID: Array, token_I: Array) -> Array:
        bias_I = None if self.bias is None else self.bias[token_I]
        return self._finish(_product("id,id->i", x_ID, weight_ID), bias_I)

    def _finish(self, product: Array, bias: Array | None) -> Array:
        """Add the bias (of the product's rank) and apply the cap."""
        logits = product if bias is None else product + bias.astype(product.dtype)
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


@products()
def _product(subscripts: str, x: Array, weight: Array) -> Array:
    """Return the product, accumulated and returned in float32 at least."""
    return jnp.einsum(subscripts, x, weight, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _slices(columns: int) -> int:
    """Return the number of slices: the smallest that divides the columns, unless far more than memory needs."""
    fewest = -(-columns // COLUMNS_AT_ONCE)
    return next((count for count in range(fewest, 4 * fewest) if columns % count == 0), fewest)


def _log_sum_exp_step(running: tuple[Array, Array], logits_IC: Array) -> tuple[Array, Array]:
    """Return the running maximum, and the sum of exponentials relative to it, with these columns added."""
    highest_I = jnp.maximum(running[0], logits_IC.max(axis=1))
    rescaled_I = running[1] * jnp.exp(running[0] - highest_I)
    return highest_I, rescaled_I + jnp.exp(logits_IC - highest_I[:, None]).sum(axis=1)
