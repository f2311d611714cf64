"""The two streams of path patching: from one head's output along direct paths to receivers, and on from them.

The *direct* stream is the edited run's with the sender's output replaced and every other head's held. No attention is
computed there, so it is run only at the positions where receivers read it. The *whole* stream starts as the edited
run's cached one at the first receiver, is given the receivers' values off the direct stream, and recomputed from there
on. As in `engine`: starts are traced, so one compilation serves all layers; in a causal stack positions before the
first that can change are not run; of the last layer only the rows that the objective reads are.

Where cross-attention goes with a stack, both write to the one stream in turn: its heads send, receive and are held
like the others.

Shapes: P positions that receivers read at, t positions from the first that changes, X heads of either kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention import Edit, unchanged
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.network import Network
from ...models.stack import Stack, run_block, take_rows
from ..exact.engine import stream_of

Receivers = Mapping[str, Mapping[str, Array]]
"""Which receivers there are, bool by stack and site: `q` `[L,N]`, `k` and `v` `[L,K]`, `mlp_out` `[L,1]`."""


class Way(NamedTuple):
    """What all copies of one compilation have in common.

    Attributes:
        stack: the senders'; receivers are on the same stream.
        first: the first position (column of the batch) that any receiver's value changes; 0 if the stack is not causal.
        frozen: whether the direct stream holds the MLPs' outputs as well.
    """

    stack: str
    first: int
    frozen: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Runs:
    """What path patching needs of the run that is edited, and of the other.

    Attributes:
        value: the objective `[B]` of the run that is edited, before any edit.
        other: the objective of the other run.
        after: the stream after its last layer: at the rows that the objective reads, `[B,R,D]`, or `[B,T,D]` if it is
            not the model's last stream.
        resid_pre: by stack on the stream, what each layer reads, `[L,B,T,D]`.
        z: by stack, every head's output, `[L,B,T,N,H]`.
        mlp_out: by stack, every MLP's, `[L,B,T,D]`, where they are held.
        other_z: the output of the senders' stack in the other run.
        done: by stack, the streams `[B,T,D]` that were finished before this one began.
    """

    value: Array
    other: Array
    after: Array
    resid_pre: dict[str, Array]
    z: dict[str, Array]
    mlp_out: dict[str, Array]
    other_z: Array
    done: dict[str, Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Where receivers' values are replaced.

    Attributes:
        columns: each example's positions in the batch, filled up with others, `[B,P]`.
        slot: which of the P each position is, `[B,T]`; anything where it is none.
        chosen: whether it is one, bool `[B,T]`.
    """

    columns: Array
    slot: Array
    chosen: Array

    def take(self, examples: np.ndarray) -> "Places":
        """The same for these examples of the batch."""
        return jax.tree.map(lambda field: field[examples], self)


class Sender(NamedTuple):
    """A head whose output is the other run's."""

    layer: int | Array
    head: Array


def hears_own_layer(stack: Stack, senders: str, receivers: str, site: str) -> bool:
    """Whether what is at a site of the stack `receivers` may read what the senders of its own layer write; both are on
    the stream of `stack`."""
    order = [part.name for part in stack.members]
    own, theirs = order.index(receivers), order.index(senders)
    return own > theirs or (own == theirs and site == "mlp_out")


class Streams(NamedTuple):
    """The two streams of one copy: `[B,P,D]` direct at some positions, `[B,t,D]` whole from the first that changes."""

    stack: Stack
    context: AttentionInputs
    runs: Runs
    places: Places
    way: Way

    @classmethod
    def of(cls, network: Network, base: Batch, runs: Runs, places: Places, way: Way) -> "Streams":
        """With what the network tells its stack of the batch."""
        told: dict[str, tuple[Stack, AttentionInputs]] = {}

        def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            told[stack.name] = stack, context
            return runs.done.get(stack.name, x_BTD)

        network.hidden(base, run_stack)
        return cls(*told[stream_of(network, way.stack).name], runs, places, way)

    def direct(self, columns_BP: Array, sender: Sender, stop: int | Array) -> Array:
        """The direct stream before layer `stop`."""

        def step(layer: Array, x_BPD: Array) -> Array:
            return self.direct_step(x_BPD, columns_BP, layer, sender)

        return jax.lax.fori_loop(sender.layer, stop, step, self.unsent(columns_BP, sender.layer))

    def unsent(self, columns_BP: Array, layer: int | Array) -> Array:
        """The direct stream before the sender's own layer: the edited run's."""
        return take_rows(self.runs.resid_pre[self.stack.name][layer], columns_BP)

    def direct_step(
        self, x_BPD: Array, columns_BP: Array, layer: int | Array, sender: Sender, *, until: str | None = None
    ) -> Array:
        """The direct stream after a layer, or before its stack `until` reads it, from that before the layer."""
        for part in self.stack.members:
            if part.name == until:
                break
            x_BPD = self._written(part, x_BPD, columns_BP, layer, sender)
        return x_BPD

    def _written(self, part: Stack, x_BPD: Array, columns_BP: Array, layer: int | Array, sender: Sender) -> Array:
        """The direct stream after one stack's layer."""
        kept = self.runs.mlp_out.get(part.name)
        held = None if kept is None else take_rows(kept[layer], columns_BP)

        def hold(site: str, value: Array) -> Array:
            return held if site == "mlp_out" and held is not None else value

        return part.block(layer).write(x_BPD, self._heads(part, columns_BP, layer, sender), hold)[0]

    def _heads(self, part: Stack, columns_BP: Array, layer: int | Array, sender: Sender) -> Array:
        """Every head's output in the edited run, the sender's in the other."""
        z_BPNH = take_rows(self.runs.z[part.name][layer], columns_BP)
        if part.name != self.way.stack:
            return z_BPNH
        other_BPNH = take_rows(self.runs.other_z[layer], columns_BP)
        sends_N = (jnp.arange(z_BPNH.shape[2]) == sender.head) & (sender.layer == layer)
        return jnp.where(sends_N[None, None, :, None], other_BPNH, z_BPNH)

    def received(
        self, x_BPD: Array, sender: Sender, receivers: Receivers, start: int | Array, stop: int | Array
    ) -> Array:
        """The whole stream before layer `stop`, from the direct stream before layer `start`."""
        columns_BP, last = self.places.columns, self.stack.members[-1].name

        def step(layer: Array, streams: tuple[Array, Array]) -> tuple[Array, Array]:
            direct, whole = streams
            edits: dict[str, Edit] = {}
            for part in self.stack.members:
                receiving = receivers.get(part.name, {})
                edits[part.name] = self._receive(part, direct, receiving, layer, sender)
                onward = partial(self._written, part, direct, columns_BP, layer, sender)
                # Nobody reads after the last receiver; but where MLPs receive, that step is mostly computed for them.
                if part.name == last and "mlp_out" not in receiving:
                    direct = jax.lax.cond(layer + 1 < stop, onward, lambda direct=direct: direct)
                else:
                    direct = onward()
            return direct, self._layer(whole, layer, edits)

        whole_BtD = self.runs.resid_pre[self.stack.name][start][:, self.way.first :]
        return jax.lax.fori_loop(start, stop, step, (x_BPD, whole_BtD))[1]

    def _receive(
        self, part: Stack, x_BPD: Array, receiving: Mapping[str, Array], layer: int | Array, sender: Sender
    ) -> Edit:
        """Receivers in one stack's layer are given what they read off the direct stream."""
        values: dict[str, Array] = {}
        if "mlp_out" in receiving:
            heads = self._heads(part, self.places.columns, layer, sender)
            values["mlp_out"] = part.block(layer).write(x_BPD, heads, unchanged)[1]["mlp_out"]
        values |= {site: self._read(part, x_BPD, layer, site) for site in receiving if site != "mlp_out"}

        def receive(site: str, value: Array) -> Array:
            return self._put(value, values[site], receiving[site][layer]) if site in receiving else value

        return receive

    def _read(self, part: Stack, x_BPD: Array, layer: int | Array, kind: str) -> Array:
        """Queries, keys or values of the direct stream."""
        block, at, columns_BP = part.block(layer), self._context(part), self.places.columns
        if kind == "q":
            return block.queries(x_BPD, jnp.take_along_axis(at.queries, columns_BP, axis=1))
        return block.keys_values(x_BPD, jnp.take_along_axis(at.own_keys, columns_BP, axis=1))[kind == "v"]

    def _context(self, part: Stack) -> AttentionInputs:
        """What one of the stacks on the stream knows."""
        if part.name == self.stack.name:
            return self.context
        assert self.context.cross is not None
        return self.context.cross

    def _put(self, value: Array, new: Array, receivers_X: Array) -> Array:
        """A site's value, `[B,T,X,H]` or `[B,T,D]`, or the end of it, with receivers' new ones `[B,P,…]` in place."""
        first = self.places.chosen.shape[1] - value.shape[1]
        new = take_rows(new, self.places.slot[:, first:])
        chosen_BtX = self.places.chosen[:, first:, None] & receivers_X[None, None]
        return jnp.where(chosen_BtX if value.ndim == 3 else chosen_BtX[..., None], new, value)

    def readers(self, part: Stack, x_BPD: Array, layer: int | Array, kind: str) -> Array:
        """The output `[B,t,N,H]` of every head of a stack's layer, were it to read its `kind` off the direct stream.

        No head's output depends on another's queries, keys and values: all may read at once, each for itself.
        """
        block, context = part.block(layer), self._context(part).after(self.way.first)
        x_BTD = self.runs.resid_pre[part.name][layer]
        k, v = block.keys_values(x_BTD if context.memory is None else context.memory, self._context(part).own_keys)
        read = {"q": block.queries(x_BTD[:, self.way.first :], context.queries), "k": k, "v": v}
        new = self._read(part, x_BPD, layer, kind)
        read[kind] = self._put(read[kind], new, jnp.ones(new.shape[2], bool))
        return block.attention.attend(read["q"], read["k"], read["v"], context, unchanged)[0]

    def end_with(
        self, part: Stack, theirs_BtNH: Array, reads_N: Array, layer: int | Array, rows_BR: Array | None
    ) -> Array:
        """The end of the stream with some heads' output in a stack's layer replaced by `theirs`."""
        first, own_BR = self.way.first, self._own(rows_BR)
        x_BtD, z_BtNH = (kept[part.name][layer][:, first:] for kept in (self.runs.resid_pre, self.runs.z))
        z_BtNH = jnp.where(reads_N[None, None, :, None], theirs_BtNH, z_BtNH)
        write = partial(self._write, part, x_BtD, z_BtNH, layer)

        def before_it() -> Array:
            return self._beyond(write(None), layer, own_BR)

        return self._all(jax.lax.cond(layer == self.stack.layers - 1, partial(write, own_BR), before_it), rows_BR)

    def _write(self, part: Stack, x_BtD: Array, z_BtNH: Array, layer: int | Array, rows_BR: Array | None) -> Array:
        """The whole stream after a layer, from what one stack's heads write in it; at some rows, or at all."""
        cross, context = self.stack.cross, self.context.after(self.way.first).cross
        if rows_BR is not None:
            x_BtD, z_BtNH = take_rows(x_BtD, rows_BR), take_rows(z_BtNH, rows_BR)
            context = None if context is None else context.rows(rows_BR)
        x_BtD = part.block(layer).write(x_BtD, z_BtNH, unchanged)[0]
        if cross is None or context is None or part.name == cross.name:
            return x_BtD
        return run_block(cross.block(layer), x_BtD, context)[0]

    def end_after(self, x_BtD: Array, layer: int | Array, rows_BR: Array | None) -> Array:
        """The end of the stream, from the whole stream after `layer`."""
        own_BR = self._own(rows_BR)

        def in_the_last() -> Array:
            return x_BtD if own_BR is None else take_rows(x_BtD, own_BR)

        def before_it() -> Array:
            return self._beyond(x_BtD, layer, own_BR)

        return self._all(jax.lax.cond(layer == self.stack.layers - 1, in_the_last, before_it), rows_BR)

    def _beyond(self, x_BtD: Array, layer: int | Array, own_BR: Array | None) -> Array:
        """From after `layer`, which is not the last, to after the last; there at some rows, or at all."""
        last = self.stack.layers - 1
        x_BtD = jax.lax.fori_loop(layer + 1, last, lambda here, x: self._layer(x, here), x_BtD)
        return self._layer(x_BtD, last, rows_BR=own_BR)

    def _layer(
        self, x_BtD: Array, layer: int | Array, edits: Mapping[str, Edit] | None = None, rows_BR: Array | None = None
    ) -> Array:
        """One layer of the whole stream; the positions before its first look as they do in the edited run."""
        blocks, first, before = self.stack.layer(layer), self.way.first, None
        if first:
            prefix_BPD = self.runs.resid_pre[self.stack.name][layer][:, :first]
            before = blocks.own.keys_values(prefix_BPD, self.context.own_keys[:, :first])
        context = self.context.after(first)
        return self.stack.run_layer(blocks, x_BtD, context, edits, before=before, rows_BR=rows_BR)[0]

    def _own(self, rows_BR: Array | None) -> Array | None:
        """Where rows lie in the whole stream; anywhere, if they come before it."""
        return None if rows_BR is None else jnp.maximum(rows_BR - self.way.first, 0)

    def _all(self, x: Array, rows_BR: Array | None) -> Array:
        """With what comes before the whole stream as it is in the edited run."""
        if rows_BR is None:
            return jnp.concatenate([self.runs.after[:, : self.way.first], x], axis=1)
        return jnp.where((rows_BR < self.way.first)[..., None], self.runs.after, x)
