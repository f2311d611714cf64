"""The engine of path patching: what each sender does to the objective through its receivers, many senders at once."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.stack import take_rows
from ...objectives import Reads, read_out
from ..exact.engine import Value, objective_values, rows_read, run_cached, stream_of
from .streams import Places, Receivers, Runs, Sender, Streams, Way, hears_own_layer

_KEPT = ("resid_pre", "z", "mlp_out")


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

    def rows(self, way: Way) -> Array | None:
        """What is needed of the end of the stream, `[B,R]`; None for everything."""
        return rows_read(self.network, stream_of(self.network, way.stack), self.reads)

    def objective(self, x: Array, way: Way, value: Value) -> Array:
        """The objective `[B]`, given what is needed of the end of the stream."""
        known = {**self.runs.done, stream_of(self.network, way.stack).name: x}
        return objective_values(self.network, self.batch, self.reads, lambda stack, *_: known.get(stack.name), value)


@partial(jax.jit, static_argnames=("way", "value"))
def run_both(network: Network, batch: Batch, other: Batch, reads: Reads, *, way: Way, value: Value) -> Runs:
    """The run that is edited, and the one that values come from."""
    stream = stream_of(network, way.stack)
    held = {part.name: ("mlp_out",) * (way.frozen and "mlp_out" in part.sites) for part in stream.members}
    own = run_cached(network, batch, {name: ("resid_pre", "z", *sites) for name, sites in held.items()})
    theirs = run_cached(network, other, {way.stack: ("z",)})
    own_BRD, other_BRD = (take_rows(run.last, reads.rows) for run in (own, theirs))
    value_B, other_B = (value(read_out(network, x_BRD, reads), reads) for x_BRD in (own_BRD, other_BRD))
    kept = {site: {name: seen[site] for name, seen in own.kept.items() if site in seen} for site in _KEPT}
    after = own.end if rows_read(network, stream, reads) is None else own_BRD
    return Runs(value_B, other_B, after, **kept, other_z=theirs.kept[way.stack]["z"], done=own.done)


@partial(jax.jit, static_argnames=("way", "value"))
def to_the_end(piece: Piece, layer: int | Array, heads_G: Array, *, way: Way, value: Value) -> Array:
    """The objective `[G,B]` with each of G heads of one layer reaching the end of its stream by its direct paths only:
    what the unembedding reads, or the stacks that follow."""
    streams, rows_BR, chosen_BR = piece.streams(way), piece.rows(way), piece.places.chosen
    if rows_BR is None:
        columns_BR = jnp.broadcast_to(jnp.arange(chosen_BR.shape[1]), chosen_BR.shape)
    else:
        columns_BR, chosen_BR = rows_BR, jnp.take_along_axis(chosen_BR, rows_BR, axis=1)

    def one(head: Array) -> Array:
        x = streams.direct(columns_BR, Sender(layer, head), streams.stack.layers)
        return piece.objective(jnp.where(chosen_BR[..., None], x, piece.runs.after), way, value)

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
        span: the receivers' first and last layer; some come after the heads.
    """
    streams = piece.streams(way)
    nearest = min(
        int(not hears_own_layer(streams.stack, way.stack, name, site))
        for name, sites in receivers.items()
        for site in sites
    )
    start = jnp.maximum(span[0], layer + nearest)

    def one(head: Array) -> Array:
        sender = Sender(layer, head)
        x_BPD = streams.direct(piece.places.columns, sender, start)
        x_BtD = streams.received(x_BPD, sender, receivers, start, span[1] + 1)
        return piece.objective(streams.end_after(x_BtD, span[1], piece.rows(way)), way, value)

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
        x_BPD = streams.unsent(columns_BP, layer) if x_BPD is None else x_BPD
        return streams.direct_step(x_BPD, columns_BP, layer, Sender(sender, head))

    return jax.vmap(one)(direct_GBPD, heads_G)


@partial(jax.jit, static_argnames=("to", "together", "way", "value"))
def to_each_head(
    piece: Piece,
    direct_GBPD: Array | None,
    sender: int | Array,
    heads_G: Array,
    layer: int | Array,
    *,
    to: tuple[str, str],
    together: int,
    way: Way,
    value: Value,
) -> Array:
    """The objective `[G,K,B]` with each head of one layer in turn reading each direct stream (N for K at `q`).

    Args:
        direct_GBPD: before that layer, as `next_direct` gives and takes it.
        to: the receivers' stack, and what they read of the stream: `q`, `k` or `v`.
        together: how many receivers are run at once, for each direct stream.
    """
    streams, columns_BP, (name, kind) = piece.streams(way), piece.places.columns, to
    [part] = [part for part in streams.stack.members if part.name == name]
    receivers = part.heads if kind == "q" else part.kv_heads

    def of_sender(x_BPD: Array | None, head: Array) -> Array:
        x_BPD = streams.unsent(columns_BP, layer) if x_BPD is None else x_BPD
        x_BPD = streams.direct_step(x_BPD, columns_BP, layer, Sender(sender, head), until=name)
        theirs_BtNH = streams.readers(part, x_BPD, layer, kind)

        def into(receiver: Array) -> Array:
            reads_N = jnp.arange(part.heads) // (part.heads // receivers) == receiver
            end = streams.end_with(part, theirs_BtNH, reads_N, layer, piece.rows(way))
            return piece.objective(end, way, value)

        return jax.lax.map(into, jnp.arange(receivers), batch_size=together)

    return jax.vmap(of_sender)(direct_GBPD, heads_G)
