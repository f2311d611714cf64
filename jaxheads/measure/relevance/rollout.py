"""Attention rollout: attention and residual connections multiplied from layer to layer (Abnar & Zuidema 2020).

Written for one example: `attention_LTT`, each layer's mean over heads, and a row of weights `[T]`, which says what is
asked of the last layer: a single 1 at the position that is read, as a rule.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack

PATTERN_BYTES = 256 * 2**20
"""One layer's patterns of so many bytes at once; more examples go through in turn."""


def with_residual(attention_LTT: Array) -> Array:
    """`(A + I) / 2`: half of what a position holds is what it held before."""
    eye_TT = jnp.eye(attention_LTT.shape[-1], dtype=attention_LTT.dtype)
    return (attention_LTT + eye_TT[None]) / 2


def rolled_out(attention_LTT: Array, row_T: Array) -> Array:
    """A row of `Ā_L … Ā_2 Ā_1` with `Ā = (A + I) / 2`, `[T]`; it sums to what `row` sums to.

    Uniform attention of n positions gives `2^-L` of the row itself and `1 - 2^-L` spread evenly.
    """

    def step(row: Array, layer_TT: Array) -> tuple[Array, None]:
        return row @ layer_TT, None

    return jax.lax.scan(step, row_T, with_residual(attention_LTT), reverse=True)[0]


def mean_attention(model: Model, batch: Batch, stack: Stack) -> np.ndarray:
    """Each layer's pattern, the mean over heads, `[E,L,T,S]` float32."""
    B, T = stack.queries.of(batch).shape
    most = max(1, PATTERN_BYTES // (4 * stack.heads * T * stack.keys.count(batch)))
    size = -(-B // -(-B // min(most, B)))
    parts = []
    for start in range(0, B, size):
        piece = batch.take(np.minimum(np.arange(start, start + size), B - 1))
        parts.append(np.moveaxis(np.asarray(_mean_attention(model.network, piece, stack.name)), 1, 0))
    return np.concatenate(parts)[:B]


@partial(jax.jit, static_argnames="stack")
def _mean_attention(network: Network, batch: Batch, stack: str) -> Array:
    return forward(network, batch, (), {stack: lambda seen: seen["pattern"].astype(jnp.float32).mean(axis=1)})[1][stack]
