"""The two streams of path patching: from one head's output along direct paths to receivers, and on from them.

The *direct* stream is the edited run's with the sender's output replaced and every other head's held. No attention is
computed there, so it is run only at the positions where receivers read it. The *whole* stream starts as the edited
run's cached one at the first receiver, is given the receivers' values off the direct stream, and recomputed from there
on. As in `engine`: starts are traced, so one compilation serves all layers; in a causal stack positions before the
first that can change are not run; of the last layer only the rows that the objective reads are.

Shapes: P positions that receivers read at, t positions from the first that changes, X heads of either kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention import Edit, unchanged
from ...models.batch import Batch, Context
from ...models.network import Network
from ...models.stack import Stack, run_block, take_rows

Receivers = Mapping[str, Array]
"""Which receivers there are, bool by site: `q` `[L,N]`, `k` and `v` `[L,K]`, `mlp_out` `[L,1]`."""


class Way(NamedTuple):
    """What all copies of one compilation have in common.

    Attributes:
        stack: its name.
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
        rows: the stream after the last layer at the rows that the objective reads, `[B,R,D]`.
        resid_pre: the stream before each layer, `[L,B,T,D]`.
        z: every head's output, `[L,B,T,N,H]`.
        mlp_out: every MLP's, `[L,B,T,D]`, where they are held, else None.
        other_z: every head's output in the other run.
    """

    value: Array
    other: Array
    rows: Array
    resid_pre: Array
    z: Array
    mlp_out: Array | None
    other_z: Array


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


class Streams(NamedTuple):
    """The two streams of one copy: `[B,P,D]` direct at some positions, `[B,t,D]` whole from the first that changes."""

    stack: Stack
    context: Context
    runs: Runs
    places: Places
    way: Way

    @classmethod
    def of(cls, network: Network, base: Batch, runs: Runs, places: Places, way: Way) -> "Streams":
        """With what the network tells its stack of the batch."""
        told: dict[str, tuple[Stack, Context]] = {}

        def through(stack: Stack, x_BTD: Array, context: Context) -> Array:
            told[stack.name] = stack, context
            return x_BTD

        network.hidden(base, through)
        return cls(*told[way.stack], runs, places, way)

    def direct(self, columns_BP: Array, sender: Sender, stop: int | Array) -> Array:
        """The direct stream before layer `stop`."""

        def step(layer: Array, x_BPD: Array) -> Array:
            return self.direct_step(x_BPD, columns_BP, layer, sender)

        x_BPD = take_rows(self.runs.resid_pre[sender.layer], columns_BP)
        return jax.lax.fori_loop(sender.layer, stop, step, x_BPD)

    def direct_step(self, x_BPD: Array, columns_BP: Array, layer: int | Array, sender: Sender) -> Array:
        """The direct stream after a layer, from that before it."""
        held = None if self.runs.mlp_out is None else take_rows(self.runs.mlp_out[layer], columns_BP)

        def hold(site: str, value: Array) -> Array:
            return held if site == "mlp_out" and held is not None else value

        return self.stack.block(layer).write(x_BPD, self._heads(columns_BP, layer, sender), hold)[0]

    def _heads(self, columns_BP: Array, layer: int | Array, sender: Sender) -> Array:
        """Every head's output in the edited run, the sender's in the other."""
        z_BPNH, other_BPNH = (take_rows(z[layer], columns_BP) for z in (self.runs.z, self.runs.other_z))
        sends_N = (jnp.arange(z_BPNH.shape[2]) == sender.head) & (sender.layer == layer)
        return jnp.where(sends_N[None, None, :, None], other_BPNH, z_BPNH)

    def received(
        self, x_BPD: Array, sender: Sender, receivers: Receivers, start: int | Array, stop: int | Array
    ) -> Array:
        """The whole stream before layer `stop`, from the direct stream before layer `start`."""
        columns_BP = self.places.columns

        def step(layer: Array, streams: tuple[Array, Array]) -> tuple[Array, Array]:
            direct, whole = streams
            written = self.stack.block(layer).write(direct, self._heads(columns_BP, layer, sender), unchanged)[1]
            values = {**self._read(direct, layer), **written}  # XLA drops those that no receiver asks for

            def receive(site: str, value: Array) -> Array:
                return self._put(value, values[site], receivers[site][layer]) if site in receivers else value

            def onward() -> Array:
                return self.direct_step(direct, columns_BP, layer, sender)

            # Nobody reads after the last receiver; but where MLPs receive, that step is mostly computed for them.
            x = onward() if "mlp_out" in receivers else jax.lax.cond(layer + 1 < stop, onward, lambda: direct)
            return x, self._layer(whole, layer, receive)

        return jax.lax.fori_loop(start, stop, step, (x_BPD, self.runs.resid_pre[start][:, self.way.first :]))[1]

    def _read(self, x_BPD: Array, layer: int | Array) -> dict[str, Array]:
        """Queries, keys and values of the direct stream."""
        block, at, columns_BP = self.stack.block(layer), self.context, self.places.columns
        k, v = block.keys_values(x_BPD, jnp.take_along_axis(at.made, columns_BP, axis=1))
        return {"q": block.queries(x_BPD, jnp.take_along_axis(at.queries, columns_BP, axis=1)), "k": k, "v": v}

    def _put(self, value: Array, new: Array, receivers_X: Array) -> Array:
        """A site's value, `[B,T,X,H]` or `[B,T,D]`, or the end of it, with receivers' new ones `[B,P,…]` in place."""
        first = self.places.chosen.shape[1] - value.shape[1]
        new = take_rows(new, self.places.slot[:, first:])
        chosen_BtX = self.places.chosen[:, first:, None] & receivers_X[None, None]
        return jnp.where(chosen_BtX if value.ndim == 3 else chosen_BtX[..., None], new, value)

    def readers(self, x_BPD: Array, layer: int | Array, kind: str) -> Array:
        """The output `[B,t,N,H]` of every head of a layer, were it to read its `kind` off the direct stream.

        No head's output depends on another's queries, keys and values: all may read at once, each for itself.
        """
        block, context, x_BTD = self.stack.block(layer), self.context.after(self.way.first), self.runs.resid_pre[layer]
        k, v = block.keys_values(x_BTD, self.context.made)
        read = {"q": block.queries(x_BTD[:, self.way.first :], context.queries), "k": k, "v": v}
        new = self._read(x_BPD, layer)[kind]
        read[kind] = self._put(read[kind], new, jnp.ones(new.shape[2], bool))
        return block.attention.attend(read["q"], read["k"], read["v"], context, unchanged)[0]

    def rows_with(self, theirs_BtNH: Array, reads_N: Array, layer: int | Array, rows_BR: Array) -> Array:
        """The stream after the last layer, at `rows`, with some heads' output in `layer` replaced by `theirs`."""
        block, first, own_BR = self.stack.block(layer), self.way.first, self._own(rows_BR)
        x_BtD, z_BtNH = self.runs.resid_pre[layer][:, first:], self.runs.z[layer][:, first:]
        z_BtNH = jnp.where(reads_N[None, None, :, None], theirs_BtNH, z_BtNH)

        def in_the_last() -> Array:
            return block.write(take_rows(x_BtD, own_BR), take_rows(z_BtNH, own_BR), unchanged)[0]

        def before_it() -> Array:
            return self._beyond(block.write(x_BtD, z_BtNH, unchanged)[0], layer, own_BR)

        return self._all(jax.lax.cond(layer == self.stack.layers - 1, in_the_last, before_it), rows_BR)

    def rows_after(self, x_BtD: Array, layer: int | Array, rows_BR: Array) -> Array:
        """The stream after the last layer, at `rows`, from the whole stream after `layer`."""
        own_BR = self._own(rows_BR)

        def in_the_last() -> Array:
            return take_rows(x_BtD, own_BR)

        def before_it() -> Array:
            return self._beyond(x_BtD, layer, own_BR)

        return self._all(jax.lax.cond(layer == self.stack.layers - 1, in_the_last, before_it), rows_BR)

    def _beyond(self, x_BtD: Array, layer: int | Array, own_BR: Array) -> Array:
        """From after `layer`, which is not the last, to some rows after the last."""
        last = self.stack.layers - 1
        x_BtD = jax.lax.fori_loop(layer + 1, last, lambda here, x: self._layer(x, here), x_BtD)
        return self._layer(x_BtD, last, rows_BR=own_BR)

    def _layer(self, x_BtD: Array, layer: int | Array, edit: Edit = unchanged, rows_BR: Array | None = None) -> Array:
        """One layer of the whole stream; the positions before its first look as they do in the edited run."""
        block, first, before = self.stack.block(layer), self.way.first, None
        if first:
            before = block.keys_values(self.runs.resid_pre[layer][:, :first], self.context.made[:, :first])
        return run_block(block, x_BtD, self.context.after(first), edit, before=before, rows_BR=rows_BR)[0]

    def _own(self, rows_BR: Array) -> Array:
        """Where rows lie in the whole stream; anywhere, if they come before it."""
        return jnp.maximum(rows_BR - self.way.first, 0)

    def _all(self, x_BRD: Array, rows_BR: Array) -> Array:
        """With the rows that come before the whole stream as they are in the edited run."""
        return jnp.where((rows_BR < self.way.first)[..., None], self.runs.rows, x_BRD)
