"""The work on edges for one chunk of examples: gradients of all edges at once, and each edge patched by itself.

Dimension key: B examples of a chunk, T positions, D model dimension, U senders, V receivers, R receivers of one layer,
L layers, C edges.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ...execution.batching import Chunks, Later, equal_chunks, in_turn
from ...execution.cost import edge_bytes
from ...execution.devices import Devices
from ...execution.lengths import GRADIENT_RUNS, Lengths, sweep_runs
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...reads import needs_derivative, reads_of
from ...tables import HeadTable
from ..grid import Grid
from ..question import CellGroup, Question
from .edges import GraphRun, edge_gradients, patch_each_edge, run_graph, unedited_value
from .graph import Graph


class EdgeGroup(NamedTuple):
    """Edges into one kind of a layer's receivers, patched one after the other.

    Attributes:
        kind, layer: as `Graph.parts` names them.
        senders: among all senders, `[C]`.
        receivers: among the layer's receivers of this kind, `[C]`.
    """

    kind: str
    layer: int
    senders: np.ndarray
    receivers: np.ndarray


def edge_question(
    model: Model,
    stack: Stack,
    graph: Graph,
    runs: tuple[Batch, Batch],
    objective: Objective,
    resources: Resources,
    *,
    fractions: Sequence[float] = (),
    exact: bool = False,
    about: Mapping[str, Any],
    finish: Callable[[HeadTable], HeadTable] = lambda table: table,
) -> Question:
    """Return the question about all edges of a stack: their estimates, their exact effects, or both.

    Args:
        runs: the base batch, whose run is edited, and the other batch, whose senders' outputs edges carry.
        fractions: of the way from the base run's embeddings to the other's: the runs whose gradients are averaged.
        exact: whether each edge is patched.
    """
    reads, estimated = reads_of(objective, model, runs[0]), len(fractions) > 0
    runs_of_one = GRADIENT_RUNS * len(fractions) + exact * sweep_runs(graph.exists.sum())
    reads, base, other = Lengths(model).read(objective, reads, *runs, runs=runs_of_one)
    if estimated:
        needs_derivative(objective)
    # Cells count through all columns: exact effects come second beside estimates, and first alone.
    columns = ("effect", "exact") if estimated and exact else ("effect",)
    groups = [CellGroup("gradients", np.flatnonzero(graph.exists))] if estimated else []
    if exact:
        groups += _exact_groups(graph, first_cell=(len(columns) - 1) * graph.exists.size)
    chunks = _chunks(stack, graph, base, resources, estimated=estimated, exact=exact)

    def work(examples: np.ndarray) -> EdgeWork:
        devices, static = resources.devices, (objective, tuple(fractions), chunks.copies)
        chunk = base.model_inputs.take(examples), other.model_inputs.take(examples), reads.take(examples)
        clean, corrupt, own_reads = devices.examples(chunk)
        return EdgeWork(resources.network(model), stack, graph, clean, corrupt, own_reads, *static, devices)

    sender_UV, receiver_UV = np.meshgrid(graph.senders, graph.receivers, indexing="ij")
    return Question(
        model,
        stack,
        base,
        objective,
        reads,
        Grid(("sender", "receiver"), graph.exists.shape, missing=~graph.exists.reshape(1, -1)),
        groups,
        chunks,
        work,
        resources,
        identity=(other, repr(about)),
        about=about,
        copies=exact,
        columns=columns,
        extras={"sender_node": sender_UV, "receiver_node": receiver_UV},
        finish=finish,
    )


@dataclass(frozen=True)
class EdgeWork:
    """Results of one chunk of examples; both runs and the senders' changes are computed when first needed.

    Attributes:
        base, other: the batch whose run is edited, and the batch whose senders' outputs edges carry.
        reads: what the objective reads of the base batch, in both runs.
        fractions: as in `edge_question`.
        copies: how many edges are patched together.
    """

    network: Network
    stack: Stack
    graph: Graph
    base: Batch
    other: Batch
    reads: Reads
    objective: Objective
    fractions: tuple[float, ...]
    copies: int
    devices: Devices

    def baselines(self) -> Later[np.ndarray]:
        """Send both runs: their objective, `[2,B]`."""
        sent = self._baselines
        return lambda: np.stack([self.devices.fetch(value_B).astype(np.float64) for value_B in sent])

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send the gradients or the runs of a group: estimates of all edges `[B,C]`, or the group's exact effects."""
        return self._estimates() if group.key is None else self._exact(group.key)

    @cached_property
    def _runs(self) -> tuple[GraphRun, GraphRun]:
        """The base run and the other run."""
        base, other = (run_graph(self.network, batch, stack=self.stack.name) for batch in (self.base, self.other))
        return base, other

    @cached_property
    def _baselines(self) -> list[jax.Array]:
        # The other run is read as the base run is, at the base batch's rows and columns: their difference is the total.
        both = zip((self.base, self.other), self._runs, strict=True)
        return [unedited_value(self.network, batch, self.reads, run, **self._static) for batch, run in both]

    def _estimates(self) -> Later[np.ndarray]:
        """Send the gradients: the estimate of each edge, `[B,C]`, averaged over the fractions."""
        sum_BVU = np.zeros((len(self.base), *self.graph.exists.T.shape))
        last = in_turn(self._gradients(sum_BVU))

        def estimates_BC() -> np.ndarray:
            last()
            return np.swapaxes(sum_BVU, 1, 2)[:, self.graph.exists] / len(self.fractions)

        return estimates_BC

    def _gradients(self, sum_BVU: np.ndarray) -> Iterator[Later[None]]:
        """Send the gradient at each fraction; each step adds it to the sum."""
        base, other = self._runs

        def add(gradient_BVU: jax.Array) -> None:
            sum_BVU[...] += self.devices.fetch(gradient_BVU)

        for fraction in self.fractions:
            gradient_BVU = edge_gradients(
                self.network,
                self.base,
                self.reads,
                base.sender_outputs,
                other.sender_outputs,
                fraction,
                **self._static,
            )
            yield partial(add, gradient_BVU)

    def _exact(self, group: EdgeGroup) -> Later[np.ndarray]:
        """Send the runs in which each edge is patched by itself: its effect, `[B,C]`."""
        values_BC = np.empty((len(self.base), len(group.senders)))
        # All is sent here, nothing in the function that waits: what it would send would come after the next group's.
        last, unedited_B = in_turn(self._patched(group, values_BC)), self._baselines[0]

        def effects_BC() -> np.ndarray:
            last()
            return values_BC - self.devices.fetch(unedited_B).astype(np.float64)[:, None]

        return effects_BC

    def _patched(self, group: EdgeGroup, values_BC: np.ndarray) -> Iterator[Later[None]]:
        """Send the patched runs, some at a time; each step puts their objective into its columns."""

        def put(edges: np.ndarray, values_CB: jax.Array) -> None:
            values_BC[:, edges] = self.devices.fetch(values_CB).T

        # All chunks have one size, those of small groups too: another would be a compilation more.
        for edges in equal_chunks(len(group.senders), self.copies):
            numbers = group.senders[edges].astype(np.int32), group.receivers[edges].astype(np.int32)
            values_CB = patch_each_edge(
                self.network,
                self.base,
                self.reads,
                self._runs[0],
                self._runs[1].sender_outputs,
                group.layer,
                *self.devices.copies(numbers),
                kind=group.kind,
                **self._static,
            )
            yield partial(put, edges, values_CB)

    @property
    def _static(self) -> dict[str, Any]:
        return {"stack": self.stack.name, "value": self.objective.value}


def edge_chunks(
    stack: Stack, batch: Batch, resources: Resources, *, copies: int, copy_streams: int, example_streams: int
) -> Chunks:
    """Return how many examples, and how many edited copies of each, run together.

    Args:
        copies: edited copies in all.
        copy_streams, example_streams: how many streams `[T,D]` a copy, and an example, holds beside a layer's work.
    """
    example_bytes, copy_bytes = edge_bytes(stack, batch, copy_streams=copy_streams, example_streams=example_streams)
    return Chunks.fitting(
        len(batch),
        copies,
        tokens=stack.queries.count(batch),
        example_bytes=example_bytes,
        copy_bytes=copy_bytes,
        memory=resources.memory,
        multiples=resources.devices.multiples,
    )


def _chunks(stack: Stack, graph: Graph, batch: Batch, resources: Resources, *, estimated: bool, exact: bool) -> Chunks:
    """Return how many examples run together, and how many of their edges are patched together."""
    # An example holds the senders' outputs in both runs and their change (3 U), and of each run the streams that a
    # layer's heads, its cross-attention and its MLP read (3 L each).
    streams, edges = 3 * len(graph.senders) + 6 * graph.layers, int(graph.exists.sum())
    patched = edge_chunks(stack, batch, resources, copies=edges, copy_streams=0, example_streams=streams)
    if not estimated:
        return patched
    # A pass back holds, for each of one layer's R receivers, its stream, the results up to its projection, and their
    # gradients: about 10 R streams. The changes are held in the order of axes of both runs and in the loop's (2 U).
    backward = 10 * graph.receivers_a_layer + 2 * len(graph.senders)
    gradients = edge_chunks(stack, batch, resources, copies=1, copy_streams=backward, example_streams=streams)
    return replace(patched, examples=min(patched.examples, gradients.examples)) if exact else gradients


def _exact_groups(graph: Graph, first_cell: int) -> list[CellGroup]:
    """Return the edges into each kind of a layer's receivers as a group; cells count from `first_cell`."""
    cells_UV = np.arange(graph.exists.size).reshape(graph.exists.shape) + first_cell
    groups = []
    for kind, layer, receivers in graph.parts():
        senders, index = np.nonzero(graph.exists[:, receivers])
        key = EdgeGroup(kind, layer, senders, index)
        groups.append(CellGroup(f"{kind}-{layer}", cells_UV[:, receivers][senders, index], key))
    return groups
