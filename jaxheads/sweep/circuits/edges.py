"""A transformer as a graph: every node reads the stream by itself, so that every edge between two nodes can be changed.

What a node reads is the stream, the sum of all that was written before it. An edge is one sender's share of what one
receiver reads: receiver v reads `x + sum_u w[u,v] * (other_u - own_u)`, with x the stream of this run, `own_u` what
sender u wrote in it, and `other_u` what it wrote in another (Elhage et al. 2021; Goldowsky-Dill et al. 2023).

Letters beside the usual ones: U senders, V receivers, R = N + 2K + 1 receivers of one layer, C edges, G circuits.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from ...models.attention import Edit, unchanged
from ...models.blocks import AdditiveBlock
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.network import Network
from ...models.stack import Layer, Stack, take_rows
from ...objectives import Reads
from ..exact.engine import Value, objective_values, rows_read, run_cached, stream_of
from .graph import Graph


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nodes:
    """An ordinary run, and what every sender said in it.

    Attributes:
        said: what each sender wrote, `[U,B,T,D]`.
        pre: the stream before each layer's heads, `[L,B,T,D]`.
        cross: the same before the heads of its cross-attention; None where there is none.
        mid: what its MLP adds to.
        post: the stream after the last layer, `[B,T,D]`.
        done: by stack, the streams that were finished before this one began.
    """

    said: Array
    pre: Array
    cross: Array | None
    mid: Array
    post: Array
    done: dict[str, Array]


@partial(jax.jit, static_argnames="stack")
def run_nodes(network: Network, batch: Batch, *, stack: str) -> Nodes:
    """The ordinary run."""
    part = stream_of(network, stack)
    sites = ("resid_pre", "z", "attn_out", "mlp_out")
    run = run_cached(network, batch, {one.name: tuple(s for s in sites if s in one.sites) for one in part.members})
    own, *cross = (run.kept[one.name] for one in part.members)
    last, L = run.kept[part.members[-1].name], part.layers

    def by_heads(one: Stack) -> Array:
        def of_layer(at: tuple[Array, Array]) -> Array:
            return _additive(one.block(at[0])).per_head_contribution(at[1])

        return jax.lax.map(of_layer, (jnp.arange(L), run.kept[one.name]["z"]))

    said_LSBTD = [by_heads(one) for one in part.members]
    if "mlp_out" in last:
        said_LSBTD.append(last["mlp_out"][:, None])
    said_SBTD = jnp.concatenate(said_LSBTD, axis=1).reshape(-1, *run.end.shape)
    said_UBTD = jnp.concatenate([own["resid_pre"][:1], said_SBTD])
    before_cross = cross[0]["resid_pre"] if cross else None
    return Nodes(said_UBTD, own["resid_pre"], before_cross, last["resid_pre"] + last["attn_out"], run.end, run.done)


@partial(jax.jit, static_argnames=("stack", "value"))
def judge(network: Network, batch: Batch, reads: Reads, nodes: Nodes, *, stack: str, value: Value) -> Array:
    """The objective `[B]` of an ordinary run."""
    known = {**nodes.done, stack: _end(network, stack, nodes.post, reads)}
    return objective_values(network, batch, reads, lambda here, *_: known.get(here.name), value)


@partial(jax.jit, static_argnames=("stack", "value"))
def run_circuits(
    network: Network, batch: Batch, reads: Reads, cut_GVU: Array, other_UBTD: Array, *, stack: str, value: Value
) -> Array:
    """The objective `[G,B]` with some edges carrying what the other run's senders said.

    Args:
        cut_GVU: each edge's share of the other run, 0 to 1; 0 where there is no edge.
        other_UBTD: what the senders said there; its axes B and T may be 1.
    """

    def one(cut_VU: Array) -> Array:
        def stream(here: Stack, x_BTD: Array, context: AttentionInputs) -> Array | None:
            if here.name != stack:
                return None
            said_UBTD = jnp.broadcast_to(other_UBTD.astype(x_BTD.dtype), (other_UBTD.shape[0], *x_BTD.shape))
            return _end(network, stack, _through_edges(here, x_BTD, context, cut_VU, said_UBTD, fixed=False), reads)

        return objective_values(network, batch, reads, stream, value)

    return jax.vmap(one)(cut_GVU)


@partial(jax.jit, static_argnames=("stack", "value"))
def edge_gradients(
    network: Network, batch: Batch, reads: Reads, embedded: Array, change_UBTD: Array, *, stack: str, value: Value
) -> Array:
    """For each example and edge, how fast the objective changes as the edge takes on its sender's change, `[B,V,U]`.

    That is `sum over positions of change_u · d objective / d in_v`, the score of edge attribution patching: the
    derivative of a run whose receivers read `x + sum_u w[u,v] * change_u`, at w = 0. Meaningless where no edge is.

    Args:
        embedded: the stream that the run starts from, `[B,T,D]`.
    """
    graph = Graph.of(stream_of(network, stack))
    change_BUTD = jnp.moveaxis(change_UBTD, 1, 0)
    none_VBU = jnp.zeros((len(graph.receivers), *change_BUTD.shape[:2]))

    def objective(weight_VBU: Array) -> Array:
        def stream(here: Stack, x_BTD: Array, context: AttentionInputs) -> Array | None:
            if here.name != stack:
                return None
            x_BTD = embedded.astype(x_BTD.dtype)
            return _end(
                network, stack, _through_edges(here, x_BTD, context, weight_VBU, change_BUTD, fixed=True), reads
            )

        return objective_values(network, batch, reads, stream, value).sum()

    return jnp.moveaxis(jax.grad(objective)(none_VBU), 1, 0)


@partial(jax.jit, static_argnames=("kind", "stack", "value"))
def patch_each_edge(
    network: Network,
    batch: Batch,
    reads: Reads,
    nodes: Nodes,
    change_UBTD: Array,
    layer: int | Array,
    senders_C: Array,
    receivers_C: Array,
    *,
    kind: str,
    stack: str,
    value: Value,
) -> Array:
    """The objective `[C,B]` with each of C edges into one layer changed in turn.

    Layers before it are not run: their stream is the ordinary run's. Of the last layer only the rows that the
    objective reads are.

    Args:
        layer: may be traced.
        senders_C: among all senders.
        receivers_C: among the layer's receivers of this kind.
        kind: as `Graph.parts` says it: "attention", "cross" (inputs of heads), "mlp" or "end".
    """

    def one(sender: Array, receiver: Array) -> Array:
        def stream(here: Stack, _: Array, context: AttentionInputs) -> Array | None:
            if here.name != stack:
                return nodes.done.get(here.name)
            if kind == "end":
                return _end(network, stack, nodes.post + change_UBTD[sender], reads)
            return _Edge(here, context, nodes, change_UBTD[sender], layer, receiver, kind).run(
                rows_read(network, here, reads)
            )

        return objective_values(network, batch, reads, stream, value)

    return jax.vmap(one)(senders_C, receivers_C)


@dataclass(frozen=True)
class _Edge:
    """One edge into a layer's heads or MLP, changed by `change_BTD`."""

    stack: Stack
    context: AttentionInputs
    nodes: Nodes
    change_BTD: Array
    layer: int | Array
    receiver: Array
    kind: str

    def run(self, rows_BR: Array | None) -> Array:
        """The stream after the stack: at these rows, or all of it."""
        last = self.stack.layers - 1

        def later_layers(x_BTD: Array) -> Array:
            x_BTD = jax.lax.fori_loop(self.layer + 1, last, lambda layer, x: self._later(layer, x), x_BTD)
            return self._later(last, x_BTD, rows_BR)

        def no_more(x_BTD: Array) -> Array:
            return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)

        return jax.lax.cond(self.layer == last, no_more, later_layers, self._own_layer())

    def _later(self, layer: int | Array, x_BTD: Array, rows_BR: Array | None = None) -> Array:
        return self.stack.run_layer(self.stack.layer(layer), x_BTD, self.context, rows_BR=rows_BR)[0]

    def _own_layer(self) -> Array:
        blocks, changed = self.stack.layer(self.layer), self.change_BTD
        if self.kind == "mlp":
            block, mid_BTD = _additive(blocks.cross or blocks.own), self.nodes.mid[self.layer]
            reads_BTD = mid_BTD if block.mlp_reads == "after" else self.nodes.pre[self.layer]
            return mid_BTD + block.feed_forward(reads_BTD + changed)
        crossing = self.kind == "cross"
        read = self.nodes.cross if crossing else self.nodes.pre
        part = self.stack.cross if crossing else self.stack
        assert read is not None
        assert part is not None
        x_BTD = read[self.layer]
        edits = {part.name: self._edit(part, x_BTD + changed)}
        return self.stack.run_layer(blocks, x_BTD, self.context, edits, cross_only=crossing)[0]

    def _edit(self, part: Stack, x_BTD: Array) -> Edit:
        """The receiving head's q, k or v made from this stream."""
        block, context = part.block(self.layer), self.context.cross if part.is_cross else self.context
        assert context is not None
        made = {"q": (block.queries(x_BTD, context.queries), jnp.arange(part.heads))}
        if not part.is_cross:
            k_BTKH, v_BTKH = block.keys_values(x_BTD, context.own_keys)
            heads_K = part.heads + jnp.arange(part.kv_heads)
            made |= {"k": (k_BTKH, heads_K), "v": (v_BTKH, heads_K + part.kv_heads)}

        def edit(site: str, own: Array) -> Array:
            if site not in made:
                return own
            changed, heads = made[site]
            return jnp.where((heads == self.receiver)[None, None, :, None], changed, own)

        return edit


def _through_edges(
    stack: Stack, x_BTD: Array, context: AttentionInputs, weight: Array, said: Array, *, fixed: bool
) -> Array:
    """What the last receiver reads, `[B,T,D]`, where receiver v reads `x + sum_u weight[v,u] * change_u`.

    Args:
        weight: `[V,U]`; if `fixed`, `[V,B,U]` and 0.
        said: what the senders said in another run, `[U,B,T,D]`: `change_u` is that less what u says in this one; if
            `fixed` it is the changes themselves, `[B,U,T,D]`.
    """
    graph = Graph.of(stack)
    N, S, R = graph.heads, graph.senders_a_layer, graph.receivers_a_layer
    own, crossing = graph.inputs_a_layer, graph.inputs_a_layer + graph.cross_heads
    hear, weight = _hear_as_it_is if fixed else _hear, weight.astype(x_BTD.dtype)

    def speak(change: Array, first: int | Array, own_SBTD: Array) -> Array:
        """What these senders said elsewhere becomes their change, now that they have spoken here."""
        if fixed:
            return change
        there_SBTD = jax.lax.dynamic_slice_in_dim(change, first, own_SBTD.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(change, there_SBTD - own_SBTD, first, axis=0)

    def step(carry: tuple[Array, Array | None], at: tuple[Array, Layer, Array]) -> tuple[Any, None]:
        (x, carried), (layer, blocks, weight_R) = carry, at
        block, first = _additive(blocks.own), 1 + layer * S
        change = said if carried is None else carried
        q_NBTD, k_KBTD, v_KBTD = jnp.split(hear(x, weight_R[:own], change), (N, N + graph.kv_heads))
        q = block.per_head_queries(q_NBTD, context.queries)
        k, v = block.per_head_keys_values(k_KBTD, v_KBTD, context.own_keys)
        z, _ = block.attention.attend(q, k, v, context, unchanged)
        mlp_R = weight_R[crossing:]
        heard_x = hear(x, mlp_R, change) if graph.mlp_reads == "beside" else None
        change = speak(change, first, block.per_head_contribution(z))
        x = x + block.from_heads(z)
        if blocks.cross is not None:
            block = _additive(blocks.cross)
            z = _crossed(block, hear(x, weight_R[own:crossing], change), context)
            change = speak(change, first + N, block.per_head_contribution(z))
            x = x + block.from_heads(z)
        if graph.mlps:
            mlp_out = block.feed_forward((hear(x, mlp_R, change) if heard_x is None else heard_x)[0])
            change = speak(change, first + N + graph.cross_heads, mlp_out[None])
            x = x + mlp_out
        return (x, None if fixed else change), None

    # What every receiver reads is large: gradients compute it anew in each layer, and a fixed change is not carried.
    start = x_BTD, None if fixed else speak(said, 0, x_BTD[None])
    blocks = Layer(stack.blocks, None if stack.cross is None else stack.cross.blocks)
    layers = jnp.arange(stack.layers), blocks, weight[:-1].reshape(stack.layers, R, *weight.shape[1:])
    (x_BTD, carried), _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, layers)
    return hear(x_BTD, weight[-1:], said if carried is None else carried)[0]


def _crossed(block: AdditiveBlock, q_NBTD: Array, context: AttentionInputs) -> Array:
    """What the heads of a layer's cross-attention put out, `[B,T,N,H]`, where each reads a stream of its own."""
    at = context.cross
    assert at is not None
    assert at.memory is not None
    k, v = block.keys_values(at.memory, at.own_keys)
    return block.attention.attend(block.per_head_queries(q_NBTD, at.queries), k, v, at, unchanged)[0]


def _hear(x_BTD: Array, weight_RU: Array, change_UBTD: Array) -> Array:
    """What each receiver reads, `[R,B,T,D]`."""
    return x_BTD[None] + jnp.einsum("ru,ubtd->rbtd", weight_RU, change_UBTD)


@jax.custom_vjp
def _hear_as_it_is(x_BTD: Array, weight_RBU: Array, change_BUTD: Array) -> Array:
    """The same for weights that are 0, each example's its own: for their gradient, which alone costs anything."""
    del change_BUTD
    return jnp.broadcast_to(x_BTD[None], (len(weight_RBU), *x_BTD.shape))


def _heard(x_BTD: Array, weight_RBU: Array, change_BUTD: Array) -> tuple[Array, Array]:
    return _hear_as_it_is(x_BTD, weight_RBU, change_BUTD), change_BUTD


def _gradient_of_hearing(change_BUTD: Array, gradient_RBTD: Array) -> tuple[Array, Array, None]:
    return gradient_RBTD.sum(axis=0), jnp.einsum("rbtd,butd->rbu", gradient_RBTD, change_BUTD), None


_hear_as_it_is.defvjp(_heard, _gradient_of_hearing)


def _end(network: Network, stack: str, x_BTD: Array, reads: Reads) -> Array:
    """What is needed of the stream after its last layer."""
    rows_BR = rows_read(network, stream_of(network, stack), reads)
    return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)


def _additive(block: Any) -> AdditiveBlock:
    """For the type checker: `Graph.of` has seen to it."""
    return cast(AdditiveBlock, block)
