"""The objective of runs with edges changed: circuits, gradients of all edges at once, each edge patched by itself.

Dimension key: G circuits, C edges, U senders, V receivers, S senders of one layer, B examples, T positions, L layers,
K key/value heads, H head dimension, D model dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ...differences import as_differences
from ...models.attention.row_edits import Edit, at_sites
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.stack import Stack, take_rows
from ...objectives import Reads
from ...programs import compiled
from ..cached_run import Value, objective_values, rows_read, run_cached, stream_of
from .graph import Graph
from .graph_forward import CarriedChange, FixedChange, GraphForward, additive


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GraphRun:
    """An unedited run, with the output of every sender.

    Attributes:
        sender_outputs: what each sender adds to the stream, `[U,B,T,D]`.
        resid_pre: the stream before each layer's own heads, `[L,B,T,D]`.
        cross_pre: the stream before the heads of each layer's cross-attention; None without cross-attention.
        resid_mid: the stream that each layer's MLP adds to.
        resid_post: the stream after the last layer, `[B,T,D]`.
        done: by stack, the streams that were finished before this one began.
    """

    sender_outputs: Array
    resid_pre: Array
    cross_pre: Array | None
    resid_mid: Array
    resid_post: Array
    done: dict[str, Array]


@partial(compiled, static_argnames="stack")
def run_graph(network: Network, batch: Batch, *, stack: str) -> GraphRun:
    """Run the model unedited, and keep every sender's output and the streams that edited runs start from."""
    stream = stream_of(network, stack)
    wanted = ("resid_pre", "z", "attn_out", "mlp_out")
    sites = {member.name: tuple(site for site in wanted if site in member.sites) for member in stream.members}
    run = run_cached(network, batch, sites)
    own, *cross = (run.kept[member.name] for member in stream.members)
    # The MLP is the last member's: a decoder layer's comes after its cross-attention.
    last = run.kept[stream.members[-1].name]

    def head_outputs(member: Stack) -> Array:
        # Layer by layer: all layers' weights beside all layers' outputs would double the memory.
        def of_layer(inputs: tuple[Array, Array]) -> Array:
            layer, z_BTNH = inputs
            return additive(member.block(layer)).per_head_contribution(z_BTNH)

        return jax.lax.map(of_layer, (jnp.arange(stream.layers), run.kept[member.name]["z"]))

    outputs_LSBTD = [head_outputs(member) for member in stream.members]
    if "mlp_out" in last:
        outputs_LSBTD.append(last["mlp_out"][:, None])
    # Within a layer senders are in the order of `Graph.senders`: own heads, cross-attention's heads, the MLP.
    flat_BTD = jnp.concatenate(outputs_LSBTD, axis=1).reshape(-1, *run.end.shape)
    return GraphRun(
        sender_outputs=jnp.concatenate([own["resid_pre"][:1], flat_BTD]),
        resid_pre=own["resid_pre"],
        cross_pre=cross[0]["resid_pre"] if cross else None,
        resid_mid=last["resid_pre"] + last["attn_out"],
        resid_post=run.end,
        done=run.done,
    )


@partial(compiled, static_argnames=("stack", "value"))
def unedited_value(network: Network, batch: Batch, reads: Reads, run: GraphRun, *, stack: str, value: Value) -> Array:
    """Return the objective `[B]` of an unedited run."""
    known = {**run.done, stack: _end(network, stack, run.resid_post, reads)}
    return objective_values(network, batch, reads, lambda current, *_: known.get(current.name), value)


@partial(compiled, static_argnames=("stack", "value"))
def run_circuits(
    network: Network, batch: Batch, reads: Reads, cut_GVU: Array, other_UBTD: Array, *, stack: str, value: Value
) -> Array:
    """Return the objective `[G,B]` of runs in which cut edges carry the senders' outputs in another run.

    Args:
        cut_GVU: each edge's share of the other run, 0 to 1; 0 where there is no edge.
        other_UBTD: the senders' outputs in the other run; its axes B and T may be 1.
    """

    def run_circuit(cut_VU: Array) -> Array:
        def graph_stream(current: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            outputs_UBTD = jnp.broadcast_to(other_UBTD.astype(x_BTD.dtype), (other_UBTD.shape[0], *x_BTD.shape))
            edges = CarriedChange(outputs_UBTD)
            return _end(network, stack, GraphForward(current, context, edges).run(x_BTD, cut_VU), reads)

        return objective_values(network, batch, reads, _only(stack, graph_stream), value)

    return jax.vmap(as_differences(run_circuit, jnp.zeros(cut_GVU.shape[1:], cut_GVU.dtype)))(cut_GVU)


@partial(compiled, static_argnames=("stack", "value"))
def edge_gradients(
    network: Network,
    batch: Batch,
    reads: Reads,
    base_UBTD: Array,
    other_UBTD: Array,
    fraction: float | Array,
    *,
    stack: str,
    value: Value,
) -> Array:
    """Return the derivative of the objective by each edge's weight, at weights of 0, `[B,V,U]`.

    This is the score of edge attribution patching, `sum over positions of change_u · d objective / d in_v`. Meaningless
    for pairs that are no edges.

    Args:
        base_UBTD, other_UBTD: the senders' outputs in the two runs; an edge carries their difference.
        fraction: of the way from the base run's embedding to the other's, where the run starts.
    """
    graph = Graph.of(stream_of(network, stack))
    change_BUTD = jnp.moveaxis(other_UBTD - base_UBTD, 1, 0)
    # The first sender is the embedding: the runs of EAP-IG start between the two runs' embeddings, but their gradients
    # are multiplied by the change between the two real runs.
    embedded = (1 - fraction) * base_UBTD[0] + fraction * other_UBTD[0]
    # Receiver v reads in_v = x + sum_u w[v,u] * change_u, so the derivative by w[v,u] is the sum over positions of
    # change_u · d objective / d in_v: one pass back gives it for all edges, where no receiver's input changes at all.
    # Each example has weights of its own, so that the gradient of the sum over examples is that of each example.
    zeros_VBU = jnp.zeros((len(graph.receivers), *change_BUTD.shape[:2]))

    def objective(weight_VBU: Array) -> Array:
        def graph_stream(current: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            forward = GraphForward(current, context, FixedChange(change_BUTD))
            return _end(network, stack, forward.run(embedded.astype(x_BTD.dtype), weight_VBU), reads)

        return objective_values(network, batch, reads, _only(stack, graph_stream), value).sum()

    return jnp.moveaxis(jax.grad(objective)(zeros_VBU), 1, 0)


@partial(compiled, static_argnames=("kind", "stack", "value"))
def patch_each_edge(
    network: Network,
    batch: Batch,
    reads: Reads,
    run: GraphRun,
    other_UBTD: Array,
    layer: int | Array,
    senders_C: Array,
    receivers_C: Array,
    *,
    kind: str,
    stack: str,
    value: Value,
) -> Array:
    """Return the objective `[C,B]` with each of C edges into one layer patched by itself.

    Layers before it are not run: their stream is the unedited run's. Of the last layer only the rows that the objective
    reads are.

    Args:
        other_UBTD: the senders' outputs in the other run.
        layer: may be traced.
        senders_C: among all senders.
        receivers_C: among the layer's receivers of this kind.
        kind: as `Graph.parts` names it: "attention", "cross" (inputs of heads), "mlp" or "end".
    """

    change_UBTD = other_UBTD - run.sender_outputs

    # The sender writes as in the unedited run, and so do all nodes before the receiver: the run starts from the cached
    # stream at the receiver's layer, and the change is in what the receiver reads, not in the stream.
    def patch_edge(edge: tuple[Array, Array]) -> Array:
        sender, receiver = edge
        change_BTD = jnp.where(sender < 0, 0, change_UBTD[sender])

        def stream(current: Stack, _: Array, context: AttentionInputs) -> Array | None:
            if current.name != stack:
                return run.done.get(current.name)
            if kind == "end":
                return _end(network, stack, run.resid_post + change_BTD, reads)
            patched = _PatchedEdge(current, context, run, change_BTD, layer, receiver, kind)
            return patched.run(rows_read(network, current, reads))

        return objective_values(network, batch, reads, stream, value)

    # An edge without a sender carries no change: it leaves the unedited run.
    unedited = jnp.full_like(senders_C[0], -1), jnp.zeros_like(receivers_C[0])
    return jax.vmap(as_differences(patch_edge, unedited))((senders_C, receivers_C))


@dataclass(frozen=True)
class _PatchedEdge:
    """One edge into a layer's heads or MLP: its receiver reads the unedited stream plus `change_BTD`."""

    stack: Stack
    context: AttentionInputs
    unedited: GraphRun
    change_BTD: Array
    layer: int | Array
    receiver: Array
    kind: str

    def run(self, rows_BR: Array | None) -> Array:
        """Return the stream after the stack: at these rows, or all of it."""
        last = self.stack.layers - 1

        def later_layers(x_BTD: Array) -> Array:
            x_BTD = jax.lax.fori_loop(self.layer + 1, last, lambda layer, x: self._later_layer(layer, x), x_BTD)
            return self._later_layer(last, x_BTD, rows_BR)

        def no_layers(x_BTD: Array) -> Array:
            return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)

        # `layer` is data: a loop with a traced start and a branch compile once for all layers of a kind.
        return jax.lax.cond(self.layer == last, no_layers, later_layers, self._edited_layer())

    def _later_layer(self, layer: int | Array, x_BTD: Array, rows_BR: Array | None = None) -> Array:
        return self.stack.run_layer(self.stack.layer(layer), x_BTD, self.context, rows_BR=rows_BR)[0]

    def _edited_layer(self) -> Array:
        """Return the stream after the layer of the receiver."""
        blocks = self.stack.layer(self.layer)
        if self.kind == "mlp":
            # The heads of the layer are as in the unedited run: only the MLP is run again.
            block, mid_BTD = additive(blocks.cross or blocks.own), self.unedited.resid_mid[self.layer]
            read_BTD = mid_BTD if block.mlp_reads == "after" else self.unedited.resid_pre[self.layer]
            return mid_BTD + block.feed_forward(read_BTD + self.change_BTD)
        is_cross = self.kind == "cross"
        streams = self.unedited.cross_pre if is_cross else self.unedited.resid_pre
        member = self.stack.cross if is_cross else self.stack
        assert streams is not None
        assert member is not None
        x_BTD = streams[self.layer]
        edits = {member.name: self._edit(member, x_BTD + self.change_BTD)}
        return self.stack.run_layer(blocks, x_BTD, self.context, edits, cross_only=is_cross)[0]

    def _edit(self, member: Stack, x_BTD: Array) -> Edit:
        """Return the edit that makes the receiving head's q, k or v from this stream, and leaves the others."""
        block, context = member.block(self.layer), self.context.cross if member.is_cross else self.context
        assert context is not None
        # All heads' inputs are computed and one is taken: `receiver` is traced, so none of them can be left out.
        changed = {"q": (block.queries(x_BTD, context.queries), jnp.arange(member.heads))}
        if not member.is_cross:
            k_BTKH, v_BTKH = block.keys_values(x_BTD, context.own_keys)
            numbers_K = member.heads + jnp.arange(member.kv_heads)
            changed |= {"k": (k_BTKH, numbers_K), "v": (v_BTKH, numbers_K + member.kv_heads)}

        def edit(site: str, unedited: Array) -> Array:
            if site not in changed:
                return unedited
            values, numbers = changed[site]
            return jnp.where((numbers == self.receiver)[None, None, :, None], values, unedited)

        return at_sites(edit, changed)


def _only(
    stack: str, run: Callable[[Stack, Array, AttentionInputs], Array]
) -> Callable[[Stack, Array, AttentionInputs], Array | None]:
    """Return `objective_values`' argument that gives one stack's stream and has the other stacks run as they are."""

    def stream(current: Stack, x_BTD: Array, context: AttentionInputs) -> Array | None:
        return run(current, x_BTD, context) if current.name == stack else None

    return stream


def _end(network: Network, stack: str, x_BTD: Array, reads: Reads) -> Array:
    """Return the rows of a stream after its last layer that what follows needs: all, or those the objective reads."""
    rows_BR = rows_read(network, stream_of(network, stack), reads)
    return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)
