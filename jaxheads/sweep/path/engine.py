"""The engine of path patching: what each sender does to the objective through its receivers, many senders at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ...models.batch import Batch
from ...models.network import Network, forward
from ...models.stack import take_rows
from ...objectives import Reads, read_out
from .streams import Places, Receivers, Runs, Sender, Streams, Way

Value = Callable[[Array, Reads], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Piece:
    """Some examples: what all their copies share."""

    network: Network
    batch: Batch
    reads: Reads
    runs: Runs
    places: Places

    def streams(self, way: Way) -> Streams:
        """The streams of one copy."""
        return Streams.of(self.network, self.batch, self.runs, self.places, way)

    def objective(self, x_BRD: Array, value: Value) -> Array:
        """The objective `[B]`, given the stream after the stack at the rows that it reads."""
        x_BRD = self.network.hidden(self.batch, lambda *_: x_BRD)
        return value(read_out(self.network, x_BRD, self.reads), self.reads)


@partial(jax.jit, static_argnames=("way", "value"))
def run_both(network: Network, batch: Batch, other: Batch, reads: Reads, *, way: Way, value: Value) -> Runs:
    """The run that is edited, and the one that values come from."""
    sites = ("resid_pre", "z", "mlp_out") if way.frozen else ("resid_pre", "z")
    x_BTD, kept = forward(network, batch, read={way.stack: lambda seen: {site: seen[site] for site in sites}})
    other_BTD, theirs = forward(network, other, read={way.stack: lambda seen: seen["z"]})
    x_BRD, other_BRD = take_rows(x_BTD, reads.rows), take_rows(other_BTD, reads.rows)
    return Runs(
        value=value(read_out(network, x_BRD, reads), reads),
        other=value(read_out(network, other_BRD, reads), reads),
        rows=x_BRD,
        resid_pre=kept[way.stack]["resid_pre"],
        z=kept[way.stack]["z"],
        mlp_out=kept[way.stack].get("mlp_out"),
        other_z=theirs[way.stack],
    )


@partial(jax.jit, static_argnames=("way", "value"))
def to_logits(piece: Piece, layer: int | Array, heads_G: Array, *, way: Way, value: Value) -> Array:
    """The objective `[G,B]` with each of G heads of one layer reaching the final stream by its direct paths only."""
    streams, rows_BR = piece.streams(way), piece.reads.rows
    chosen_BR = jnp.take_along_axis(piece.places.chosen, rows_BR, axis=1)

    def one(head: Array) -> Array:
        x_BRD = streams.direct(rows_BR, Sender(layer, head), streams.stack.layers)
        return piece.objective(jnp.where(chosen_BR[..., None], x_BRD, piece.runs.rows), value)

    return jax.vmap(one)(heads_G)


@partial(jax.jit, static_argnames=("way", "value"))
def to_receivers(
    piece: Piece,
    receivers: Receivers,
    span: tuple[int | Array, int | Array],
    layer: int | Array,
    heads_G: Array,
    *,
    way: Way,
    value: Value,
) -> Array:
    """The objective `[G,B]` with each of G heads of one layer reaching these receivers by its direct paths only.

    Args:
        span: the receivers' first and last layer; the last one comes after the heads.
    """
    streams = piece.streams(way)
    nearest = 0 if "mlp_out" in receivers else 1  # layers from a head to what may read it: its own layer's MLP is first
    start = jnp.maximum(span[0], layer + nearest)

    def one(head: Array) -> Array:
        sender = Sender(layer, head)
        x_BPD = streams.direct(piece.places.columns, sender, start)
        x_BtD = streams.received(x_BPD, sender, receivers, start, span[1] + 1)
        return piece.objective(streams.rows_after(x_BtD, span[1], piece.reads.rows), value)

    return jax.vmap(one)(heads_G)


@partial(jax.jit, static_argnames="way")
def next_direct(
    piece: Piece, direct_GBPD: Array | None, sender: int | Array, heads_G: Array, layer: int | Array, *, way: Way
) -> Array:
    """The direct streams `[G,B,P,D]` of G heads of layer `sender` after a layer, from those before it.

    In the sender's own layer there are none before it, but the edited run's stream: give None.
    """
    streams, columns_BP = piece.streams(way), piece.places.columns

    def one(x_BPD: Array | None, head: Array) -> Array:
        x_BPD = take_rows(piece.runs.resid_pre[layer], columns_BP) if x_BPD is None else x_BPD
        return streams.direct_step(x_BPD, columns_BP, layer, Sender(sender, head))

    return jax.vmap(one)(direct_GBPD, heads_G)


@partial(jax.jit, static_argnames=("kind", "together", "way", "value"))
def to_each_head(
    piece: Piece, direct_GBPD: Array, layer: int | Array, *, kind: str, together: int, way: Way, value: Value
) -> Array:
    """The objective `[G,K,B]` with each head of one layer in turn reading each direct stream (N for K at `q`).

    Args:
        kind: what they read of it: `q`, `k` or `v`.
        together: how many receivers are run at once, for each direct stream.
    """
    streams = piece.streams(way)
    heads = streams.stack.heads
    receivers = heads if kind == "q" else streams.stack.kv_heads

    def of_sender(direct_BPD: Array) -> Array:
        theirs_BtNH = streams.readers(direct_BPD, layer, kind)

        def into(receiver: Array) -> Array:
            reads_N = jnp.arange(heads) // (heads // receivers) == receiver
            return piece.objective(streams.rows_with(theirs_BtNH, reads_N, layer, piece.reads.rows), value)

        return jax.lax.map(into, jnp.arange(receivers), batch_size=together)

    return jax.vmap(of_sender)(direct_GBPD)
