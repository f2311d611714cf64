"""Attention rollout: attention and residual connections multiplied from layer to layer (Abnar & Zuidema 2020).

Written for one example: `attention_LTT`, each layer's mean over heads, and weights `[T]` of the last layer's positions,
usually a single 1 at the position that is read.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ...models.attention.row_edits import unchanged
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.network import Network, forward
from ...models.stack import Sites, Stack
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


@partial(compiled, static_argnames="stack")
def rollout_relevance(network: Network, batch: Batch, rows_BT: Array, stack: str) -> Array:
    """Return the rollout of each example's row of weights, `[B,T]` float32.

    Layers run twice, up for their inputs and down for the row, so that no layer's pattern is kept or even whole.
    """
    results = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, kept = stack.run(x_BTD, context, read={stack.name: lambda seen: seen["resid_pre"]})

        def step(rows_BT: Array, numbered: tuple[Array, Array]) -> tuple[Array, None]:
            number, x_BTD = numbered
            edit = replace(unchanged, readers={ROW: _RowThroughLayer(rows_BT)})
            seen = stack.run_layer(stack.layer(number), x_BTD, context, {stack.name: edit})[1]
            return seen[stack.name][ROW], None

        start = rows_BT.astype(jnp.float32)
        layers = jnp.arange(stack.layers), kept[stack.name]
        results[stack.name] = jax.lax.scan(step, start, layers, reverse=True)[0]
        return x_BTD

    network.hidden(batch, run_stack)
    return results[stack]


ROW = "row"
"""Name of the row among a layer's sites."""


@dataclass(frozen=True)
class _RowThroughLayer:
    """A `RowReader` that returns `row Ā`, `[B,T]`: the row of weights before the layer, by that after it."""

    rows_BT: Array

    def start(self) -> Array:
        return jnp.zeros_like(self.rows_BT)

    def add(self, sums: Array, sites: Sites, first: Array | int) -> Array:
        mean_BtT = sites["pattern"].astype(jnp.float32).mean(axis=1)
        t, T = mean_BtT.shape[1:]
        rows_t = first + jnp.arange(t)
        weights_Bt = jnp.where((rows_t < T)[None], self.rows_BT[:, jnp.minimum(rows_t, T - 1)], 0.0)
        kept_Bt = weights_Bt / (1 + mean_BtT.sum(axis=-1))
        return sums.at[:, rows_t].add(kept_Bt, mode="drop") + jnp.einsum("bt,bts->bs", kept_Bt, mean_BtT)

    def finish(self, sums: Array) -> Array:
        return sums


@partial(compiled, static_argnames="stack")
def mean_attention(network: Network, batch: Batch, stack: str) -> Array:
    """Return each layer's pattern, the mean over heads, `[E,L,T,S]` float32."""
    readers = {stack: lambda seen: seen["pattern"].astype(jnp.float32).mean(axis=1)}
    return jnp.moveaxis(forward(network, batch, read=readers)[1][stack], 1, 0)
