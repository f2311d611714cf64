"""A transformer as a graph: every node reads the stream by itself, so that every edge between two nodes can be changed.

What a node reads is the stream, the sum of all that was written before it. An edge is one sender's share of what one
receiver reads: receiver v reads `x + sum_u w[u,v] * (other_u - own_u)`, with x the stream of this run, `own_u` what
sender u wrote in it, and `other_u` what it wrote in another (Elhage et al. 2021; Goldowsky-Dill et al. 2023).

Letters beside the usual ones: U senders, V receivers, R = N + 2K + 1 receivers of one layer, C edges, G circuits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention import Edit, unchanged
from ...models.batch import Batch, Context
from ...models.blocks import AdditiveBlock
from ...models.network import Network, forward
from ...models.stack import Stack, run_block, take_rows
from ...objectives import Reads, read_out

Value = Callable[[Array, Reads], Array]


@dataclass(frozen=True)
class Graph:
    """Senders, receivers, and which of their pairs are edges.

    Senders: "embed", then layer by layer its heads ("head 3.0" is head 0 of layer 3) and its MLP ("mlp 3"). A bias of
    the heads' common output belongs to none of them. Receivers: layer by layer the query inputs of its heads
    ("q 3.0"), the key and the value inputs of its key/value heads ("k 3.0", "v 3.0") and the input of its MLP; last
    "logits". Everyone hears everyone before; an MLP that reads the stream after its own layer's heads also hears these.

    Attributes:
        mlp_reads: as a block says it: "after" the layer's heads, "beside" them (GPT-NeoX, GPT-J), or "none" is there.
    """

    layers: int
    heads: int
    kv_heads: int
    mlp_reads: str = "after"

    @classmethod
    def of(cls, stack: Stack) -> "Graph":
        """The graph of a stack.

        Raises:
            ValueError: if its stream is not the sum of what its nodes write.
        """
        if not stack.blocks.additive:
            raise ValueError(
                f"edges need a stream that is the sum of what heads and MLPs write; a {type(stack.blocks).__name__} of "
                f"the {stack.name} is none. Ask about its nodes instead: patch, ablate"
            )
        return cls(stack.layers, stack.heads, stack.kv_heads, stack.blocks.mlp_reads)

    @property
    def mlps(self) -> int:
        """Of one layer: 1 or 0."""
        return int(self.mlp_reads != "none")

    @property
    def senders_a_layer(self) -> int:
        """Heads and the MLP."""
        return self.heads + self.mlps

    @property
    def inputs_a_layer(self) -> int:
        """Query, key and value inputs."""
        return self.heads + 2 * self.kv_heads

    @property
    def receivers_a_layer(self) -> int:
        """R: query, key and value inputs, and the MLP's."""
        return self.inputs_a_layer + self.mlps

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names, `[U]`."""
        names = ["embed"]
        for layer in range(self.layers):
            names += [f"head {layer}.{head}" for head in range(self.heads)] + [f"mlp {layer}"] * self.mlps
        return tuple(names)

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Names, `[V]`."""
        names, counts = [], {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        for layer in range(self.layers):
            names += [f"{kind} {layer}.{head}" for kind, count in counts.items() for head in range(count)]
            names += [f"mlp {layer}"] * self.mlps
        return (*names, "logits")

    @cached_property
    def exists(self) -> np.ndarray:
        """Which pairs are edges, bool `[U,V]`."""
        before_L = 1 + self.senders_a_layer * np.arange(self.layers)
        heard_LR = np.repeat(before_L[:, None], self.receivers_a_layer, axis=1)
        if self.mlp_reads == "after":
            heard_LR[:, -1] += self.heads
        heard_V = np.append(heard_LR, len(self.senders))
        return np.arange(len(self.senders))[:, None] < heard_V[None]

    def parts(self) -> Iterator[tuple[str, int, slice]]:
        """Kinds of receivers, each with its layer and where they are among all: "attention", "mlp" or "logits"."""
        R, inputs = self.receivers_a_layer, self.inputs_a_layer
        for layer in range(self.layers):
            yield "attention", layer, slice(layer * R, layer * R + inputs)
            if self.mlps:
                yield "mlp", layer, slice(layer * R + inputs, (layer + 1) * R)
        yield "logits", self.layers, slice(self.layers * R, self.layers * R + 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nodes:
    """An ordinary run, and what every sender said in it.

    Attributes:
        said: what each sender wrote, `[U,B,T,D]`.
        pre, mid: the stream before each layer's heads, and what its MLP adds to, `[L,B,T,D]`.
        post: the stream after the last layer, `[B,T,D]`.
    """

    said: Array
    pre: Array
    mid: Array
    post: Array


@partial(jax.jit, static_argnames="stack")
def run_nodes(network: Network, batch: Batch, *, stack: str) -> Nodes:
    """The ordinary run."""
    part = _stack(network, stack)
    sites = ("resid_pre", "z", "attn_out", *(("mlp_out",) if Graph.of(part).mlps else ()))
    post, seen = forward(network, batch, read={stack: lambda seen: {site: seen[site] for site in sites}})
    kept = seen[stack]

    def of_layer(at: tuple[Array, Array]) -> Array:
        return _additive(part.block(at[0])).from_heads_apart(at[1])

    said_LNBTD = jax.lax.map(of_layer, (jnp.arange(part.layers), kept["z"]))
    if "mlp_out" in kept:
        said_LNBTD = jnp.concatenate([said_LNBTD, kept["mlp_out"][:, None]], axis=1)
    said_UBTD = jnp.concatenate([kept["resid_pre"][:1], said_LNBTD.reshape(-1, *post.shape)])
    return Nodes(said_UBTD, kept["resid_pre"], kept["resid_pre"] + kept["attn_out"], post)


@partial(jax.jit, static_argnames="value")
def judge(network: Network, post_BTD: Array, reads: Reads, *, value: Value) -> Array:
    """The objective `[B]` of a stream after the last layer."""
    return value(read_out(network, take_rows(post_BTD, reads.rows), reads), reads)


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
        def through(here: Stack, x_BTD: Array, context: Context) -> Array:
            said_UBTD = jnp.broadcast_to(other_UBTD.astype(x_BTD.dtype), (other_UBTD.shape[0], *x_BTD.shape))
            return _through_edges(here, x_BTD, context, cut_VU, said_UBTD, fixed=False)

        return judge(network, network.hidden(batch, through), reads, value=value)

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
    graph = Graph.of(_stack(network, stack))
    change_BUTD = jnp.moveaxis(change_UBTD, 1, 0)
    none_VBU = jnp.zeros((len(graph.receivers), *change_BUTD.shape[:2]))

    def objective(weight_VBU: Array) -> Array:
        def through(here: Stack, x_BTD: Array, context: Context) -> Array:
            return _through_edges(here, embedded.astype(x_BTD.dtype), context, weight_VBU, change_BUTD, fixed=True)

        return judge(network, network.hidden(batch, through), reads, value=value).sum()

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
        kind: "attention" (inputs of heads), "mlp" or "logits".
    """

    def one(sender: Array, receiver: Array) -> Array:
        def through(here: Stack, x_BTD: Array, context: Context) -> Array:
            if kind == "logits":
                return take_rows(nodes.post + change_UBTD[sender], reads.rows)
            edge = _Edge(here, context, nodes, change_UBTD[sender], layer, receiver, kind)
            return edge.run(reads.rows)

        return value(read_out(network, network.hidden(batch, through), reads), reads)

    return jax.vmap(one)(senders_C, receivers_C)


@dataclass(frozen=True)
class _Edge:
    """One edge into a layer's heads or MLP, changed by `change_BTD`."""

    stack: Stack
    context: Context
    nodes: Nodes
    change_BTD: Array
    layer: int | Array
    receiver: Array
    kind: str

    def run(self, rows_BR: Array) -> Array:
        """The stream after the stack, at these rows."""
        last = self.stack.layers - 1

        def later_layers(x_BTD: Array) -> Array:
            x_BTD = jax.lax.fori_loop(self.layer + 1, last, self._later, x_BTD)
            return run_block(self.stack.block(last), x_BTD, self.context, rows_BR=rows_BR)[0]

        return jax.lax.cond(self.layer == last, lambda x: take_rows(x, rows_BR), later_layers, self._own_layer())

    def _later(self, layer: Array, x_BTD: Array) -> Array:
        return run_block(self.stack.block(layer), x_BTD, self.context)[0]

    def _own_layer(self) -> Array:
        block = _additive(self.stack.block(self.layer))
        if self.kind == "mlp":
            mid_BTD = self.nodes.mid[self.layer]
            reads_BTD = mid_BTD if block.mlp_reads == "after" else self.nodes.pre[self.layer]
            return mid_BTD + block.feed_forward(reads_BTD + self.change_BTD)
        x_BTD = self.nodes.pre[self.layer]
        return run_block(block, x_BTD, self.context, self._edit(block, x_BTD + self.change_BTD))[0]

    def _edit(self, block: AdditiveBlock, x_BTD: Array) -> Edit:
        """The receiving head's q, k or v made from this stream."""
        N, K = self.stack.heads, self.stack.kv_heads
        k_BTKH, v_BTKH = block.keys_values(x_BTD, self.context.made)
        q_BTNH = block.queries(x_BTD, self.context.queries)
        made = {"q": (q_BTNH, jnp.arange(N)), "k": (k_BTKH, N + jnp.arange(K)), "v": (v_BTKH, N + K + jnp.arange(K))}

        def edit(site: str, own: Array) -> Array:
            if site not in made:
                return own
            changed, heads = made[site]
            return jnp.where((heads == self.receiver)[None, None, :, None], changed, own)

        return edit


def _through_edges(stack: Stack, x_BTD: Array, context: Context, weight: Array, said: Array, *, fixed: bool) -> Array:
    """What the last receiver reads, `[B,T,D]`, where receiver v reads `x + sum_u weight[v,u] * change_u`.

    Args:
        weight: `[V,U]`; if `fixed`, `[V,B,U]` and 0.
        said: what the senders said in another run, `[U,B,T,D]`: `change_u` is that less what u says in this one; if
            `fixed` it is the changes themselves, `[B,U,T,D]`.
    """
    graph = Graph.of(stack)
    N, S, R = graph.heads, graph.senders_a_layer, graph.receivers_a_layer
    hear, weight = _hear_as_it_is if fixed else _hear, weight.astype(x_BTD.dtype)

    def speak(change: Array, first: int | Array, own_SBTD: Array) -> Array:
        """What these senders said elsewhere becomes their change, now that they have spoken here."""
        if fixed:
            return change
        there_SBTD = jax.lax.dynamic_slice_in_dim(change, first, own_SBTD.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(change, there_SBTD - own_SBTD, first, axis=0)

    def step(carry: tuple[Array, Array | None], at: tuple[Array, Any, Array]) -> tuple[Any, None]:
        (x, carried), (layer, block, weight_R) = carry, at
        block, first = _additive(block), 1 + layer * S
        change = said if carried is None else carried
        inputs_R, mlp_R = weight_R[: graph.inputs_a_layer], weight_R[graph.inputs_a_layer :]
        q_NBTD, k_KBTD, v_KBTD = jnp.split(hear(x, inputs_R, change), (N, N + graph.kv_heads))
        q = block.queries_apart(q_NBTD, context.queries)
        k, v = block.keys_values_apart(k_KBTD, v_KBTD, context.made)
        z, _ = block.attention.attend(q, k, v, context, unchanged)
        heard_x = hear(x, mlp_R, change) if graph.mlp_reads == "beside" else None
        change = speak(change, first, block.from_heads_apart(z))
        x = x + block.from_heads(z)
        if graph.mlps:
            mlp_out = block.feed_forward((hear(x, mlp_R, change) if heard_x is None else heard_x)[0])
            change = speak(change, first + N, mlp_out[None])
            x = x + mlp_out
        return (x, None if fixed else change), None

    # What every receiver reads is large: gradients compute it anew in each layer, and a fixed change is not carried.
    start = x_BTD, None if fixed else speak(said, 0, x_BTD[None])
    layers = jnp.arange(stack.layers), stack.blocks, weight[:-1].reshape(stack.layers, R, *weight.shape[1:])
    (x_BTD, carried), _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, layers)
    return hear(x_BTD, weight[-1:], said if carried is None else carried)[0]


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


def _stack(network: Network, name: str) -> Stack:
    return next(stack for stack in network.stacks if stack.name == name)


def _additive(block: Any) -> AdditiveBlock:
    """For the type checker: `Graph.of` has seen to it."""
    return cast(AdditiveBlock, block)
