"""The engine of path patching: from senders to the objective along direct paths, many senders at once.

Dimension key: G senders of one layer, B examples of a chunk, T positions, P positions at which the direct stream is
run, R rows that the objective reads, N heads, K key/value heads, D model dimension.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...differences import as_differences
from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.stack import take_rows
from ...objectives import Reads, read_out
from ...programs import compiled
from ..cached_run import Value, objective_values, rows_read, run_cached, stream_of
from .receivers import ReceiverMasks, ReceiverPositions, layers_to
from .streams import BothRuns, PathSpec, Sender, Streams

NO_HEAD = np.int32(-1)
"""A sender that is no head: the base run."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PathChunk:
    """One chunk of examples on the devices, with what all its copies share."""

    network: Network
    batch: Batch
    reads: Reads
    runs: BothRuns
    positions: ReceiverPositions

    def streams(self, spec: PathSpec) -> Streams:
        """Return the streams of one copy."""
        return Streams.of(self.network, self.batch, self.runs, self.positions, spec)

    def rows(self, spec: PathSpec) -> Array | None:
        """Return the rows `[B,R]` that are needed of the stream's end; None for all."""
        return rows_read(self.network, stream_of(self.network, spec.stack), self.reads)

    def objective(self, end: Array, spec: PathSpec, value: Value) -> Array:
        """Return the objective `[B]` of a run whose stream ends like this."""
        known = {**self.runs.done, stream_of(self.network, spec.stack).name: end}
        return objective_values(self.network, self.batch, self.reads, lambda stack, *_: known.get(stack.name), value)


@partial(compiled, static_argnames=("spec", "value"))
def run_both(network: Network, batch: Batch, other: Batch, reads: Reads, *, spec: PathSpec, value: Value) -> BothRuns:
    """Run the batch that is edited and the one that values come from, and keep what copies start from."""
    stream = stream_of(network, spec.stack)
    mlps = {member.name: ("mlp_out",) * (spec.freezes_mlps and "mlp_out" in member.sites) for member in stream.members}
    base_run = run_cached(network, batch, {name: ("resid_pre", "z", *sites) for name, sites in mlps.items()})
    other_run = run_cached(network, other, {spec.stack: ("z",)})
    base_BRD, other_BRD = (take_rows(run.last, reads.rows) for run in (base_run, other_run))
    kept = {
        site: {name: values[site] for name, values in base_run.kept.items() if site in values}
        for site in ("resid_pre", "z", "mlp_out")
    }
    return BothRuns(
        value(read_out(network, base_BRD, reads), reads),
        value(read_out(network, other_BRD, reads), reads),
        base_run.end if rows_read(network, stream, reads) is None else base_BRD,
        **kept,
        other_z=other_run.kept[spec.stack]["z"],
        done=base_run.done,
    )


@partial(compiled, static_argnames=("spec", "value"))
def send_to_end(chunk: PathChunk, layer: int | Array, heads_G: Array, *, spec: PathSpec, value: Value) -> Array:
    """Return the objective `[G,B]` where each of G heads of one layer reaches the end of its stream by direct paths.

    The end is what the unembedding reads, or the stacks that follow.
    """
    streams, rows_BR, chosen_BR = chunk.streams(spec), chunk.rows(spec), chunk.positions.chosen
    if rows_BR is None:
        columns_BR = jnp.broadcast_to(jnp.arange(chosen_BR.shape[1]), chosen_BR.shape)
    else:
        # No attention follows the end of the last stream, so the direct stream is run only at the rows that are read.
        columns_BR, chosen_BR = rows_BR, jnp.take_along_axis(chosen_BR, rows_BR, axis=1)

    def send(head: Array) -> Array:
        x = streams.direct(columns_BR, Sender(layer, head), streams.stack.layers)
        return chunk.objective(jnp.where(chosen_BR[..., None], x, chunk.runs.end), spec, value)

    return jax.vmap(as_differences(send, NO_HEAD))(heads_G)


@partial(compiled, static_argnames=("spec", "value"))
def send_to_receivers(
    chunk: PathChunk,
    receivers: ReceiverMasks,
    span: tuple[int | Array, int | Array],
    layer: int | Array,
    heads_G: Array,
    *,
    spec: PathSpec,
    value: Value,
) -> Array:
    """Return the objective `[G,B]` where each of G heads of one layer reaches these receivers by direct paths.

    Args:
        span: the receivers' first and last layer; traced. The last one reads these heads.
    """
    streams = chunk.streams(spec)
    # The masks hold the receivers of all senders. Those before `start` come before these senders, and read nothing new:
    # the whole stream starts at the first receiver after them.
    distance = min(
        layers_to(streams.stack, spec.stack, name, site) for name, sites in receivers.items() for site in sites
    )
    start = jnp.maximum(span[0], layer + distance)

    def send(head: Array) -> Array:
        sender = Sender(layer, head)
        x_BPD = streams.direct(chunk.positions.columns, sender, start)
        x_BtD = streams.receive(x_BPD, sender, receivers, start, span[1] + 1)
        return chunk.objective(streams.end_after(x_BtD, span[1], chunk.rows(spec)), spec, value)

    return jax.vmap(as_differences(send, NO_HEAD))(heads_G)


@partial(compiled, static_argnames="spec")
def advance_direct(
    chunk: PathChunk,
    direct_GBPD: Array | None,
    sender: int | Array,
    heads_G: Array,
    layer: int | Array,
    *,
    spec: PathSpec,
) -> Array:
    """Return the direct streams `[G,B,P,D]` of G heads of layer `sender` after a layer, from those before it.

    Args:
        direct_GBPD: None in the senders' own layer, before which they are the base run's.
    """
    streams, columns_BP = chunk.streams(spec), chunk.positions.columns

    base_BPD = streams.before_sender(columns_BP, layer)

    def advance(copy: tuple[Array | None, Array]) -> Array:
        x_BPD, head = copy
        return streams.direct_layer(base_BPD if x_BPD is None else x_BPD, columns_BP, layer, Sender(sender, head))

    unedited = None if direct_GBPD is None else base_BPD, NO_HEAD
    return jax.vmap(as_differences(advance, unedited))((direct_GBPD, heads_G))


@partial(compiled, static_argnames=("to", "together", "spec", "value"))
def send_to_each_head(
    chunk: PathChunk,
    direct_GBPD: Array | None,
    sender: int | Array,
    heads_G: Array,
    layer: int | Array,
    *,
    to: tuple[str, str],
    together: int,
    spec: PathSpec,
    value: Value,
) -> Array:
    """Return the objective `[G,K,B]` where each head of one layer in turn reads each direct stream (N for K at `q`).

    Args:
        direct_GBPD: before that layer, as `advance_direct` takes and gives it.
        to: the receivers' stack, and what they read of the stream: `q`, `k` or `v`.
        together: how many receivers run at once, for each direct stream.
    """
    streams, columns_BP, (name, site) = chunk.streams(spec), chunk.positions.columns, to
    stack = chunk.network.stack(name)
    receivers = stack.heads_at(site)

    base_BPD = streams.before_sender(columns_BP, layer)

    def send(copy: tuple[Array | None, Array]) -> Array:
        x_BPD, head = base_BPD if copy[0] is None else copy[0], copy[1]
        x_BPD = streams.direct_layer(x_BPD, columns_BP, layer, Sender(sender, head), until=name)
        outputs_BtNH = streams.reader_outputs(stack, x_BPD, layer, site)

        def receive(receiver: Array) -> Array:
            # At `k` and `v` a receiver is a key/value head: all query heads that share it change.
            replaced_N = jnp.arange(stack.heads) // (stack.heads // receivers) == receiver
            end = streams.end_with(stack, outputs_BtNH, replaced_N, layer, chunk.rows(spec))
            return chunk.objective(end, spec, value)

        return jax.lax.map(receive, jnp.arange(receivers), batch_size=together)

    unedited = None if direct_GBPD is None else base_BPD, NO_HEAD
    return jax.vmap(as_differences(send, unedited))((direct_GBPD, heads_G))
