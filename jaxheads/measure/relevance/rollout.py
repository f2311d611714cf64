"""Attention rollout: attention and residual connections multiplied from layer to layer (Abnar & Zuidema 2020).

Written for one example: `attention_LTT`, each layer's mean over heads, and weights `[T]` of the last layer's positions,
usually a single 1 at the position that is read.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch
from ...models.network import Network, forward
from ...programs import compiled


def with_residual(attention_LTT: Array) -> Array:
    """Return `(A + I) / 2`: half of a position's content is its content before the layer.

    Rows that sum to less than 1, of heads with learnt sinks, count by their sums: `(A + I) / (1 + Σ A)`. A head that
    rests at its sink adds nothing, and the position keeps what it had.
    """
    eye_TT = jnp.eye(attention_LTT.shape[-1], dtype=attention_LTT.dtype)
    return (attention_LTT + eye_TT[None]) / (1 + attention_LTT.sum(axis=-1, keepdims=True))


def rolled_out(attention_LTT: Array, row_T: Array) -> Array:
    """Return `row Ā_L … Ā_2 Ā_1` with `Ā` of `with_residual`, `[T]`, whose sum is that of `row`.

    Uniform attention of n positions gives `2^-L` of the row itself and `1 - 2^-L` spread evenly.
    """

    def step(row_T: Array, layer_TT: Array) -> tuple[Array, None]:
        return row_T @ layer_TT, None

    return jax.lax.scan(step, row_T, with_residual(attention_LTT), reverse=True)[0]


def rollout_relevance(attention_ELTT: np.ndarray, rows_ET: np.ndarray) -> np.ndarray:
    """Return the rollout of each example's row of weights, `[E,T]`."""
    return np.asarray(_rolled_out(attention_ELTT, jnp.asarray(rows_ET, jnp.float32)))


@partial(compiled, static_argnames="stack")
def mean_attention(network: Network, batch: Batch, stack: str) -> Array:
    """Return each layer's pattern, the mean over heads, `[E,L,T,S]` float32."""
    readers = {stack: lambda seen: seen["pattern"].astype(jnp.float32).mean(axis=1)}
    return jnp.moveaxis(forward(network, batch, read=readers)[1][stack], 1, 0)


_rolled_out = compiled(jax.vmap(rolled_out))
