"""The two streams of path patching: from one head's output along direct paths to receivers, and on from them.

The *direct* stream is that of the base run with the sender's output from the other run and every other head's frozen.
The *whole* stream is that of the base run with the receivers' values taken off the direct stream, and everything after
them recomputed.

Where cross-attention goes with a stack, both write to the one stream in turn: its heads send, receive and are frozen
like the others.

Dimension key: B examples of a chunk, T positions, P positions at which the direct stream is run, t positions from the
first that changes, R rows that the objective reads, L layers, N heads, K key/value heads, X of either kind, H head
dimension, D model dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ...models.attention.row_edits import Edit, at_sites, unchanged
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.stack import Stack, run_block, take_rows
from ..cached_run import stream_of
from .receivers import ReceiverMasks, ReceiverPositions

# Three savings, each because the rest of the stream is known to be the base run's:
# - Layers: the direct stream starts at the sender and the whole stream at the first receiver, as nothing before them is
#   edited. Both starts are traced, not static: one compilation serves all senders and receivers.
# - Positions: all heads on the direct stream are frozen, so no position reads another there, and it is run only at the
#   positions where receivers read it. In a causal stack the whole stream has no positions before the first that
#   changes.
# - Rows: the last layer of the whole stream is run only at the rows that the objective reads.


class PathSpec(NamedTuple):
    """The static part of a question: what all copies of one compilation share.

    Attributes:
        stack: the senders' stack; receivers are on its stream.
        first: the first column of the batch that any receiver's value changes; 0 if the stack is not causal.
        freezes_mlps: whether MLPs on the direct stream are frozen, too.
    """

    stack: str
    first: int
    freezes_mlps: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BothRuns:
    """The base run, which is edited, and the other run, as far as path patching needs them.

    Attributes:
        value, other_value: the objective `[B]` of the two runs.
        end: the base run's stream after its last layer: at the rows that the objective reads, `[B,R,D]`, or `[B,T,D]`
            if other streams follow.
        resid_pre: by stack on the stream, the input of each layer, `[L,B,T,D]`.
        z: by stack, every head's output, `[L,B,T,N,H]`.
        mlp_out: by stack, every MLP's output, `[L,B,T,D]`, if MLPs are frozen.
        other_z: the output of the senders' heads in the other run, `[L,B,T,N,H]`.
        done: by stack, the streams `[B,T,D]` that were finished before this one began.
    """

    value: Array
    other_value: Array
    end: Array
    resid_pre: dict[str, Array]
    z: dict[str, Array]
    mlp_out: dict[str, Array]
    other_z: Array
    done: dict[str, Array]


class Sender(NamedTuple):
    """A head whose output is the other run's."""

    layer: int | Array
    head: Array


class Streams(NamedTuple):
    """The two streams of one copy: direct `[B,P,D]`, and whole `[B,t,D]`."""

    stack: Stack
    context: AttentionInputs
    runs: BothRuns
    positions: ReceiverPositions
    spec: PathSpec

    @classmethod
    def of(
        cls, network: Network, batch: Batch, runs: BothRuns, positions: ReceiverPositions, spec: PathSpec
    ) -> "Streams":
        """Return the streams of a batch, with the attention inputs that the network gives its stack."""
        inputs: dict[str, tuple[Stack, AttentionInputs]] = {}

        # The network is walked only for these inputs: streams before this one are known, and what follows is unused,
        # so that XLA drops it.
        def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            inputs[stack.name] = stack, context
            return runs.done.get(stack.name, x_BTD)

        network.hidden(batch, run_stack)
        return cls(*inputs[stream_of(network, spec.stack).name], runs, positions, spec)

    def direct(self, columns_BP: Array, sender: Sender, stop: int | Array) -> Array:
        """Return the direct stream before layer `stop`."""

        def step(layer: Array, x_BPD: Array) -> Array:
            return self.direct_layer(x_BPD, columns_BP, layer, sender)

        return jax.lax.fori_loop(sender.layer, stop, step, self.before_sender(columns_BP, sender.layer))

    def before_sender(self, columns_BP: Array, layer: int | Array) -> Array:
        """Return the direct stream before the sender's own layer: the base run's."""
        return take_rows(self.runs.resid_pre[self.stack.name][layer], columns_BP)

    def direct_layer(
        self, x_BPD: Array, columns_BP: Array, layer: int | Array, sender: Sender, *, until: str | None = None
    ) -> Array:
        """Return the direct stream after a layer, or before the stack `until` reads it in that layer."""
        for member in self.stack.members:
            if member.name == until:
                break
            x_BPD = self._direct_write(member, x_BPD, columns_BP, layer, sender)
        return x_BPD

    def _direct_write(
        self, member: Stack, x_BPD: Array, columns_BP: Array, layer: int | Array, sender: Sender
    ) -> Array:
        """Return the direct stream after one stack's layer."""
        mlp_out = self.runs.mlp_out.get(member.name)
        frozen = None if mlp_out is None else take_rows(mlp_out[layer], columns_BP)

        def freeze(site: str, value: Array) -> Array:
            return frozen if site == "mlp_out" and frozen is not None else value

        return member.block(layer).write(x_BPD, self._direct_z(member, columns_BP, layer, sender), freeze)[0]

    def _direct_z(self, member: Stack, columns_BP: Array, layer: int | Array, sender: Sender) -> Array:
        """Return every head's output `[B,P,N,H]`: the sender's of the other run, all others' of the base run."""
        z_BPNH = take_rows(self.runs.z[member.name][layer], columns_BP)
        if member.name != self.spec.stack:
            return z_BPNH
        other_BPNH = take_rows(self.runs.other_z[layer], columns_BP)
        sends_N = (jnp.arange(z_BPNH.shape[2]) == sender.head) & (sender.layer == layer)
        return jnp.where(sends_N[None, None, :, None], other_BPNH, z_BPNH)

    def receive(
        self, x_BPD: Array, sender: Sender, receivers: ReceiverMasks, start: int | Array, stop: int | Array
    ) -> Array:
        """Return the whole stream before layer `stop`, from the direct stream before layer `start`."""
        columns_BP, last = self.positions.columns, self.stack.members[-1].name

        def step(layer: Array, streams: tuple[Array, Array]) -> tuple[Array, Array]:
            direct, whole = streams
            edits: dict[str, Edit] = {}
            for member in self.stack.members:
                masks = receivers.get(member.name, {})
                edits[member.name] = self._receiver_edit(member, direct, masks, layer, sender)
                write = partial(self._direct_write, member, direct, columns_BP, layer, sender)
                # After the last receiver nothing reads the direct stream, and its step is left out. Where MLPs receive,
                # their values are most of that step, and XLA shares the two: a condition would compute them twice.
                if member.name == last and "mlp_out" not in masks:
                    direct = jax.lax.cond(layer + 1 < stop, write, lambda direct=direct: direct)
                else:
                    direct = write()
            return direct, self._layer(whole, layer, edits)

        # A receiver's edit is the first thing that differs from the base run: the whole stream starts at its layer.
        whole_BtD = self.runs.resid_pre[self.stack.name][start][:, self.spec.first :]
        return jax.lax.fori_loop(start, stop, step, (x_BPD, whole_BtD))[1]

    def _receiver_edit(
        self, member: Stack, x_BPD: Array, masks: Mapping[str, Array], layer: int | Array, sender: Sender
    ) -> Edit:
        """Return the edit that gives the receivers in one stack's layer what they read off the direct stream."""
        values: dict[str, Array] = {}
        if "mlp_out" in masks:
            # A receiving MLP is computed even where MLPs are frozen: `unchanged` freezes nothing.
            z_BPNH = self._direct_z(member, self.positions.columns, layer, sender)
            values["mlp_out"] = member.block(layer).write(x_BPD, z_BPNH, unchanged)[1]["mlp_out"]
        values |= {site: self._read(member, x_BPD, layer, site) for site in masks if site != "mlp_out"}

        def edit(site: str, value: Array) -> Array:
            return self._put(value, values[site], masks[site][layer])

        return at_sites(edit, masks)

    def _read(self, member: Stack, x_BPD: Array, layer: int | Array, site: str) -> Array:
        """Return queries, keys or values of the direct stream, `[B,P,X,H]`."""
        block, context, columns_BP = member.block(layer), self._context(member), self.positions.columns
        if site == "q":
            return block.queries(x_BPD, jnp.take_along_axis(context.queries, columns_BP, axis=1))
        return block.keys_values(x_BPD, jnp.take_along_axis(context.own_keys, columns_BP, axis=1))[site == "v"]

    def _context(self, member: Stack) -> AttentionInputs:
        """Return the attention inputs of one of the stacks on the stream."""
        if member.name == self.stack.name:
            return self.context
        assert self.context.cross is not None
        return self.context.cross

    def _put(self, value: Array, new: Array, receivers_X: Array) -> Array:
        """Put receivers' new values `[B,P,…]` into a site's, `[B,T,X,H]` or `[B,T,D]`, or into the end of it."""
        # Keys and values are those of all positions, all else of the last t: the length says where they begin.
        first = self.positions.chosen.shape[1] - value.shape[1]
        new = take_rows(new, self.positions.slot[:, first:])
        chosen_BtX = self.positions.chosen[:, first:, None] & receivers_X[None, None]
        return jnp.where(chosen_BtX if value.ndim == 3 else chosen_BtX[..., None], new, value)

    def reader_outputs(self, member: Stack, x_BPD: Array, layer: int | Array, site: str) -> Array:
        """Return every head's output `[B,t,N,H]`, as it is if that head alone reads this site off the direct stream."""
        # No head's output depends on another's queries, keys and values, so all heads of a layer read at once: one
        # attention serves N or K receivers.
        block, context = member.block(layer), self._context(member).after(self.spec.first)
        x_BTD = self.runs.resid_pre[member.name][layer]
        k, v = block.keys_values(x_BTD if context.memory is None else context.memory, self._context(member).own_keys)
        values = {"q": block.queries(x_BTD[:, self.spec.first :], context.queries), "k": k, "v": v}
        new = self._read(member, x_BPD, layer, site)
        values[site] = self._put(values[site], new, jnp.ones(new.shape[2], bool))
        return block.attention.attend(values["q"], values["k"], values["v"], context, unchanged)[0]

    def end_with(
        self, member: Stack, outputs_BtNH: Array, replaced_N: Array, layer: int | Array, rows_BR: Array | None
    ) -> Array:
        """Return the end of the stream with the outputs of these heads replaced in one stack's layer."""
        first, own_BR = self.spec.first, self._clip(rows_BR)
        x_BtD, z_BtNH = (values[member.name][layer][:, first:] for values in (self.runs.resid_pre, self.runs.z))
        z_BtNH = jnp.where(replaced_N[None, None, :, None], outputs_BtNH, z_BtNH)
        write = partial(self._write, member, x_BtD, z_BtNH, layer)

        def in_earlier_layer() -> Array:
            return self._remaining_layers(write(None), layer, own_BR)

        x = jax.lax.cond(layer == self.stack.layers - 1, partial(write, own_BR), in_earlier_layer)
        return self._with_unchanged(x, rows_BR)

    def _write(self, member: Stack, x_BtD: Array, z_BtNH: Array, layer: int | Array, rows_BR: Array | None) -> Array:
        """Return the whole stream after a layer, from the output of one stack's heads in it; at rows, or everywhere."""
        cross, context = self.stack.cross, self.context.after(self.spec.first).cross
        if rows_BR is not None:
            x_BtD, z_BtNH = take_rows(x_BtD, rows_BR), take_rows(z_BtNH, rows_BR)
            context = None if context is None else context.rows(rows_BR)
        x_BtD = member.block(layer).write(x_BtD, z_BtNH, unchanged)[0]
        if cross is None or context is None or member.name == cross.name:
            return x_BtD
        return run_block(cross.block(layer), x_BtD, context)[0]

    def end_after(self, x_BtD: Array, layer: int | Array, rows_BR: Array | None) -> Array:
        """Return the end of the stream, from the whole stream after a layer."""
        own_BR = self._clip(rows_BR)

        def after_last_layer() -> Array:
            return x_BtD if own_BR is None else take_rows(x_BtD, own_BR)

        def after_earlier_layer() -> Array:
            return self._remaining_layers(x_BtD, layer, own_BR)

        x = jax.lax.cond(layer == self.stack.layers - 1, after_last_layer, after_earlier_layer)
        return self._with_unchanged(x, rows_BR)

    def _remaining_layers(self, x_BtD: Array, layer: int | Array, own_BR: Array | None) -> Array:
        """Run the layers after this one, which is not the last; the last one at rows, or everywhere."""
        last = self.stack.layers - 1
        x_BtD = jax.lax.fori_loop(layer + 1, last, lambda number, x: self._layer(x, number), x_BtD)
        return self._layer(x_BtD, last, rows_BR=own_BR)

    def _layer(
        self, x_BtD: Array, layer: int | Array, edits: Mapping[str, Edit] | None = None, rows_BR: Array | None = None
    ) -> Array:
        """Run one layer of the whole stream."""
        blocks, first, before = self.stack.layer(layer), self.spec.first, None
        if first:
            # Later positions attend to those before `first`, whose keys and values are as in the base run.
            prefix_BD = self.runs.resid_pre[self.stack.name][layer][:, :first]
            before = blocks.own.keys_values(prefix_BD, self.context.own_keys[:, :first])
        context = self.context.after(first)
        return self.stack.run_layer(blocks, x_BtD, context, edits, before=before, rows_BR=rows_BR)[0]

    def _clip(self, rows_BR: Array | None) -> Array | None:
        """Return rows as indices into the whole stream; 0 for those before it, which `_with_unchanged` sets right."""
        return None if rows_BR is None else jnp.maximum(rows_BR - self.spec.first, 0)

    def _with_unchanged(self, x: Array, rows_BR: Array | None) -> Array:
        """Return the end of the stream with the base run's values before the first position that changes."""
        if rows_BR is None:
            return jnp.concatenate([self.runs.end[:, : self.spec.first], x], axis=1)
        return jnp.where((rows_BR < self.spec.first)[..., None], self.runs.end, x)
