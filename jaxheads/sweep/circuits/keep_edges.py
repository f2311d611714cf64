"""What is left of the objective when only the edges of a circuit are kept."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...execution.batching import Chunks
from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...progress import progress as show_progress
from ..exact.engine import end_of
from ..exact.patch import check_pair
from ..exact.work import Resources
from ..memory import each_piece, memory_runs_out
from .edge_work import choose_edge_chunks, one_of, pieces, stack_with_edges
from .edges import run_circuits, run_nodes
from .graph import Graph

ABLATIONS = ("patching", "zero", "mean")


def keep_edges(
    model: Model,
    clean: Batch,
    corrupt: Batch | None,
    objective: Objective,
    kept: np.ndarray,
    *,
    ablation: Literal["patching", "zero", "mean"] = "patching",
    stack: str | None = None,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
) -> np.ndarray:
    """The objective `[G,E]` of the clean run when only the edges of a circuit are kept, for each of G circuits.

    Over an edge that is not kept its receiver hears, of its sender, what was said in the corrupt run.

    Args:
        corrupt: for "patching" of the clean batch's shape, with padding in the same places; for "mean" any batch; for
            "zero" none is needed.
        kept: bool `[G,U,V]`, in the order of `Graph.senders` and `Graph.receivers`; pairs that are no edges are passed
            over.
        ablation: what is heard instead: "patching" what the sender said in the corrupt run, "mean" its mean over the
            corrupt batch's examples and real positions, "zero" nothing.
        memory, devices, progress: as in `ablate`.

    Raises:
        ValueError: as in `edge_attribution`, and for circuits of another shape.
    """
    part = stack_with_edges(model, stack)
    graph, room = Graph.of(part, end_of(model.network, part.name)), Resources(memory, Devices.of(devices))
    kept = _circuits(graph, kept)
    _check_ablation(model, clean, corrupt, ablation)
    reads, senders = objective.reads(model, clean), len(graph.senders)
    streams = senders + 6 * graph.receivers_a_layer
    chunks = choose_edge_chunks(part, clean, len(kept), streams, 2 * senders, room)
    instead = _instead(model, part, graph, corrupt, ablation, chunks, room)
    found_GE = np.empty((len(kept), len(clean)))
    network = room.network(model)
    with show_progress(found_GE.size, f"running {len(kept)} circuits", progress) as advance:

        def run(examples: np.ndarray) -> None:
            some = room.devices.examples((clean.take(examples), reads.take(examples)))
            other_UBTD = instead(examples)
            for circuits in pieces(len(kept), chunks.copies):
                cut = np.swapaxes(~kept[circuits] & graph.exists, 1, 2).astype(np.float32)
                cut_GVU = room.devices.cells(cut)
                with memory_runs_out():
                    values = run_circuits(network, *some, cut_GVU, other_UBTD, stack=part.name, value=objective.value)
                    found_GE[np.ix_(circuits, examples)] = room.devices.fetch(values)
                advance(len(np.unique(circuits)) * len(np.unique(examples)))

        each_piece(chunks, len(clean), run)
    return found_GE


def _instead(
    model: Model,
    part: Stack,
    graph: Graph,
    corrupt: Batch | None,
    ablation: str,
    chunks: Chunks,
    room: Resources,
) -> Callable[[np.ndarray], Array]:
    """From examples to what is heard over edges that are not kept, `[U,B|1,T|1,D]`."""

    def said(examples: np.ndarray) -> Array:
        assert corrupt is not None
        given = room.devices.examples(corrupt.take(examples))
        return run_nodes(room.network(model), given, stack=part.name).said

    if ablation == "patching":
        return said
    sums_UD, count = np.zeros((len(graph.senders), part.width)), 0.0
    if corrupt is not None and ablation == "mean":
        for piece in chunks.example_pieces(len(corrupt)):
            once_B = np.append(np.diff(piece) > 0, True)  # the last example may be repeated
            real_BT = np.asarray(part.queries.of(corrupt.take(piece)).mask, np.float32) * once_B[:, None]
            said_UBTD = said(piece).astype(jnp.float32)
            sums_UD += room.devices.fetch(_summed(said_UBTD, room.devices.examples(real_BT)))
            count += float(real_BT.sum())
    mean_UBTD = room.devices.everywhere((sums_UD / max(count, 1.0)).astype(np.float32)[:, None, None])
    return lambda _: mean_UBTD


@jax.jit
def _summed(said_UBTD: Array, real_BT: Array) -> Array:
    """Over real positions, `[U,D]`."""
    return jnp.einsum("ubtd,bt->ud", said_UBTD, real_BT)


def _circuits(graph: Graph, kept: np.ndarray) -> np.ndarray:
    kept = np.asarray(kept)
    if kept.dtype != bool or kept.ndim != 3 or kept.shape[1:] != graph.exists.shape or not len(kept):
        raise ValueError(
            f"kept must be bool [circuits, senders, receivers], at least one circuit by {graph.exists.shape}; "
            f"got {kept.dtype} {kept.shape}"
        )
    return kept


def _check_ablation(model: Model, clean: Batch, corrupt: Batch | None, ablation: str) -> None:
    one_of("ablation", ablation, ABLATIONS)
    if corrupt is None and ablation != "zero":
        raise ValueError(f"ablation={ablation!r} takes what is heard instead from a corrupt batch; got none")
    model.check(clean)
    if corrupt is not None and ablation == "patching":
        check_pair(model, clean, corrupt)
    elif corrupt is not None:
        model.check(corrupt)
