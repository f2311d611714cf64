"""The steps of attention at any query rows: scores, pattern, and the weighted sum of values.

Dimension key: B batch, t query rows, S key positions, N query heads, K key/value heads, R = (N // K) * t rows of the
heads that share keys, H head dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..inputs.attention_inputs import RowBias, bias_rows
from ..inputs.masks import Mask
from ..inputs.query_rows import Take, taken
from .row_edits import Edit, RowEdit

Bias = Array | RowBias | Callable[[Array, Array], Array]
"""Bias of the scores, `[B|1,N,T|1,S]`, or a function of the queries and keys that returns it."""


class Scoring(NamedTuple):
    """What turns queries and keys into a pattern; `attention.attend` explains its parts."""

    mask: Mask
    scale: float | Array
    bias: Bias | None
    cap: float | None
    sinks: Array | None
    edit: Edit

    def rows(self, take: Take) -> "Scoring":
        """Return the scoring of the chosen query rows."""
        bias, scale, edit = self.bias, self.scale, self.edit
        assert isinstance(edit, RowEdit), "an edit without rows is made of whole patterns"
        assert isinstance(bias, Array | RowBias | None), "a bias without rows is of whole scores"
        if isinstance(scale, Array) and scale.ndim == 4:
            scale = taken(scale, take, 2)
        return self._replace(mask=self.mask.rows(take), bias=bias_rows(bias, take), scale=scale, edit=edit.rows(take))

    def until(self, stop: int) -> "Scoring":
        """Return the scoring of the keys before column `stop`, of scores whose bias is no function."""
        bias = self.bias
        if isinstance(bias, Array) and bias.shape[3] > 1:
            bias = bias[..., :stop]
        return self._replace(mask=self.mask.until(stop), bias=bias)

    def scores(self, q_BtNH: Array, k_BSKH: Array) -> Array:
        """Return the masked scores `[B,N,t,S]`."""
        B, t, N, H = q_BtNH.shape
        S, K = k_BSKH.shape[1:3]
        lowest = jnp.finfo(q_BtNH.dtype).min
        visible_B1tS = self.mask.array()[:, None]
        # Query heads that share keys are put side by side: keys need no copy for each of them.
        q_BKRH = jnp.moveaxis(q_BtNH.reshape(B, t, K, N // K, H), 1, 3).reshape(B, K, -1, H)
        scores_BNtS = jnp.einsum("bkrh,bskh->bkrs", q_BKRH, k_BSKH).reshape(B, N, t, S)
        scores_BNtS = scores_BNtS * jnp.asarray(self.scale, q_BtNH.dtype)
        if self.cap is not None:
            scores_BNtS = jnp.tanh(scores_BNtS / self.cap) * self.cap
        if self.bias is not None:
            added = self.bias(q_BtNH, k_BSKH) if callable(self.bias) else self.bias
            scores_BNtS = scores_BNtS + added.astype(q_BtNH.dtype)
        scores_BNtS = jnp.where(visible_B1tS, scores_BNtS, lowest)
        return jnp.where(visible_B1tS, self.edit("scores", scores_BNtS), lowest)

    def pattern(self, scores_BNtS: Array) -> Array:
        """Return the softmax over keys, and over a head's sink where there is one, after its edit."""
        wide = scores_BNtS.astype(jnp.promote_types(scores_BNtS.dtype, jnp.float32))
        if self.sinks is None:
            pattern_BNtS = jax.nn.softmax(wide, axis=-1)
        else:
            sinks_N = self.sinks.astype(wide.dtype)
            sinks_BNt1 = jnp.broadcast_to(sinks_N[None, :, None, None], (*wide.shape[:-1], 1))
            pattern_BNtS = jax.nn.softmax(jnp.concatenate([wide, sinks_BNt1], axis=-1), axis=-1)[..., :-1]
        return self.edit("pattern", pattern_BNtS.astype(scores_BNtS.dtype))


class Values(NamedTuple):
    """Values as they are summed: finite ones `[B,S,K,H]`, with 0 for those that are `broken`, `[B,S,K]`."""

    finite: Array
    broken: Array


def readable(v_BSKH: Array) -> Values:
    """Return values for `weighted_sum`."""
    broken_BSK = ~jnp.isfinite(v_BSKH).all(axis=-1)
    return Values(jnp.where(broken_BSK[..., None], jnp.zeros_like(v_BSKH), v_BSKH), broken_BSK.astype(v_BSKH.dtype))


def weighted_sum(pattern_BNtS: Array, values: Values) -> Array:
    """Return the sum of values weighted by a pattern, `[B,t,N,H]`: NaN where it reads a value that is not finite.

    A key of weight 0 is not read. 0 times infinity is NaN, so a value that overflows would reach queries that don't see
    it: those before it, those whose edge is knocked out, and from padding all of them.
    """
    B, N, t, S = pattern_BNtS.shape
    K, H = values.finite.shape[2:]
    pattern_BKRS = pattern_BNtS.reshape(B, K, -1, S)
    reads_broken_BKR = jnp.einsum("bkrs,bsk->bkr", pattern_BKRS, values.broken) != 0
    z_BKRH = jnp.einsum("bkrs,bskh->bkrh", pattern_BKRS, values.finite)
    z_BKRH = jnp.where(reads_broken_BKR[..., None], jnp.nan, z_BKRH)
    return jnp.moveaxis(z_BKRH.reshape(B, N, t, H), 1, 2)
