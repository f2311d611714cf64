"""A transformer as a graph: each node reads the stream by itself, so that each edge between two nodes can be changed.

A node reads the stream, the sum of all that was written before it. An edge is one sender's share of it: receiver v
reads `x + sum_u w[v,u] * change_u`, with x the stream of this run, and `change_u` the sender's output in another run
less its output in this one (Elhage et al. 2021; Goldowsky-Dill et al. 2023).

Dimension key: U senders, V receivers, R = N + 2K + 1 receivers of one layer (with cross-attention its N query inputs
more), S senders that write together, B examples, T positions, N heads, K key/value heads, H head dimension, D model
dimension.
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from jax import Array

from ...models.attention.row_edits import unchanged
from ...models.blocks import AdditiveBlock
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.stack import Layer, Stack
from .graph import Graph

State = Any
"""Values that edges keep from layer to layer, a pytree."""


class Edges(Protocol):
    """A way to change edges: the streams that receivers read, and what is kept of senders' outputs."""

    def start(self, x_BTD: Array, /) -> State:
        """Return the state once the embedding has written the stream."""
        ...

    def reads(self, x_BTD: Array, weight: Array, state: State, /) -> Array:
        """Return what each receiver reads, `[R,B,T,D]`."""
        ...

    def written(self, state: State, first: int | Array, outputs_SBTD: Array, /) -> State:
        """Return the state after senders, the first of them number `first`, have written."""
        ...


@dataclass(frozen=True, eq=False)
class CarriedChange:
    """Edges of a circuit. The state is `[U,B,T,D]`: the other run's outputs, less this run's where they are written.

    A sender's output in this run depends on the edges cut before it, so its change is known only once it has written.
    No receiver before it reads the entry: its weight is 0 there, as there is no such edge.
    """

    other_UBTD: Array

    def start(self, x_BTD: Array) -> Array:
        return self.written(self.other_UBTD, 0, x_BTD[None])

    def reads(self, x_BTD: Array, weight_RU: Array, state_UBTD: Array) -> Array:
        return x_BTD[None] + jnp.einsum("ru,ubtd->rbtd", weight_RU, state_UBTD)

    def written(self, state_UBTD: Array, first: int | Array, outputs_SBTD: Array) -> Array:
        other_SBTD = jax.lax.dynamic_slice_in_dim(state_UBTD, first, outputs_SBTD.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(state_UBTD, other_SBTD - outputs_SBTD, first, axis=0)


@dataclass(frozen=True, eq=False)
class FixedChange:
    """Edges of weight 0, whose gradients are asked for. The change is that between two unedited runs; no state."""

    change_BUTD: Array

    def start(self, x_BTD: Array) -> None:
        del x_BTD

    def reads(self, x_BTD: Array, weight_RBU: Array, state: None) -> Array:
        del state
        return _read_with_zero_weights(x_BTD, weight_RBU, self.change_BUTD)

    def written(self, state: None, first: int | Array, outputs_SBTD: Array) -> None:
        del state, first, outputs_SBTD


@dataclass(frozen=True, eq=False)
class GraphForward:
    """The forward pass of a stack in which every receiver reads a stream of its own."""

    stack: Stack
    context: AttentionInputs
    edges: Edges

    def run(self, x_BTD: Array, weight: Array) -> Array:
        """Return what the last receiver reads, `[B,T,D]`.

        Args:
            x_BTD: the embedding.
            weight: how much of each sender's change a receiver reads, `[V,U]`; `[V,B,U]` for gradients.
        """
        stack, graph, weight = self.stack, self._graph, weight.astype(x_BTD.dtype)
        weight_LR = weight[:-1].reshape(stack.layers, graph.receivers_a_layer, *weight.shape[1:])
        inputs = jnp.arange(stack.layers), stack.scanned, weight_LR
        # What all receivers of a layer read is R streams. A backward pass that kept them for all layers would need
        # R * L, so it computes a layer's again. `scan` already keeps the two computations apart: no CSE barrier.
        step = jax.checkpoint(self._layer, prevent_cse=False)
        (x_BTD, state), _ = jax.lax.scan(step, (x_BTD, self.edges.start(x_BTD)), inputs)
        return self.edges.reads(x_BTD, weight[-1:], state)[0]

    @property
    def _graph(self) -> Graph:
        return Graph.of(self.stack)

    def _layer(
        self, carry: tuple[Array, State], inputs: tuple[Array, Layer | None, Array]
    ) -> tuple[tuple[Array, State], None]:
        """Run one layer; `carry` is the stream and the state of the edges."""
        (x, state), (layer, scanned, weight_R) = carry, inputs
        blocks = self.stack.scanned_layer(layer, scanned)
        graph, edges, block = self._graph, self.edges, additive(blocks.own)
        N, own = graph.heads, graph.inputs_a_layer
        own_R, cross_R, mlp_R = jnp.split(weight_R, (own, own + graph.cross_heads))
        sender = 1 + layer * graph.senders_a_layer
        q_NBTD, k_KBTD, v_KBTD = jnp.split(edges.reads(x, own_R, state), (N, N + graph.kv_heads))
        q = block.per_head_queries(q_NBTD, self.context.queries)
        k, v = block.per_head_keys_values(k_KBTD, v_KBTD, self.context.own_keys)
        z, _ = block.attention.attend(q, k, v, self.context, unchanged)
        # An MLP beside its layer's heads reads before they write.
        mlp_reads = edges.reads(x, mlp_R, state) if graph.mlp_reads == "beside" else None
        state = edges.written(state, sender, block.per_head_contribution(z))
        x = x + block.from_heads(z)
        if blocks.cross is not None:
            block = additive(blocks.cross)
            z = self._cross_attention(block, edges.reads(x, cross_R, state))
            state = edges.written(state, sender + N, block.per_head_contribution(z))
            x = x + block.from_heads(z)
        if graph.mlps:
            mlp_reads = edges.reads(x, mlp_R, state) if mlp_reads is None else mlp_reads
            mlp_out = block.feed_forward(mlp_reads[0])
            state = edges.written(state, sender + N + graph.cross_heads, mlp_out[None])
            x = x + mlp_out
        return (x, state), None

    def _cross_attention(self, block: AdditiveBlock, q_NBTD: Array) -> Array:
        """Return the output of a layer's cross-attention `[B,T,N,H]`, where each head's query reads its own stream."""
        context = self.context.cross
        assert context is not None
        assert context.memory is not None
        k, v = block.keys_values(context.memory, context.own_keys)
        return block.attention.attend(block.per_head_queries(q_NBTD, context.queries), k, v, context, unchanged)[0]


# With reads_r = x + sum_u w[r,u] * change_u, and g_r the gradient by reads_r, the gradients are: by x, the sum of all
# g_r; by w[r,u], the product g_r · change_u, summed over positions; by change_u, the sum of w[r,u] * g_r, 0 at w = 0.
# There reads_r is x itself: a rule of its own saves the forward pass the product with all changes.
@jax.custom_vjp
def _read_with_zero_weights(x_BTD: Array, weight_RBU: Array, change_BUTD: Array) -> Array:
    """Return what each receiver reads, `[R,B,T,D]`, at weights of 0, which are each example's own."""
    del change_BUTD
    return jnp.broadcast_to(x_BTD[None], (len(weight_RBU), *x_BTD.shape))


def _read_forward(x_BTD: Array, weight_RBU: Array, change_BUTD: Array) -> tuple[Array, Array]:
    return _read_with_zero_weights(x_BTD, weight_RBU, change_BUTD), change_BUTD


def _read_backward(change_BUTD: Array, gradient_RBTD: Array) -> tuple[Array, Array, None]:
    return gradient_RBTD.sum(axis=0), jnp.einsum("rbtd,butd->rbu", gradient_RBTD, change_BUTD), None


_read_with_zero_weights.defvjp(_read_forward, _read_backward)


def additive(block: Any) -> AdditiveBlock:
    """Return the block, with its type: `Graph.of` has checked it."""
    return cast(AdditiveBlock, block)
