"""The work on edges, cut into pieces: gradients of all of them, and each patched in turn."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from ...execution.batching import Chunks, even, matmul_tokens, up
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ..exact.engine import end_of
from ..exact.patch import DIRECTIONS, check_pair
from ..exact.work import Resources
from ..grid import Grid
from ..pieces import InPieces, Part
from .edges import Nodes, edge_gradients, judge, patch_each_edge, run_nodes
from .graph import Graph


@dataclass(frozen=True)
class EdgesAsking:
    """All that is asked of edges, but for the pair.

    Attributes:
        shares: runs whose embeddings are so many parts of the other run's give the gradients, averaged; None for none.
        exact: whether every edge is patched.
        identity: words that the answer depends on.
    """

    model: Model
    direction: str
    stack: str | None
    shares: np.ndarray | None
    exact: bool
    room: Resources
    identity: tuple[Any, ...]

    def __post_init__(self) -> None:
        one_of("direction", self.direction, DIRECTIONS)

    @cached_property
    def part(self) -> Stack:
        return stack_with_edges(self.model, self.stack)

    @cached_property
    def graph(self) -> Graph:
        return Graph.of(self.part, end_of(self.model.network, self.part.name))

    def of(self, clean: Batch, corrupt: Batch, objective: Objective) -> InPieces:
        """Of one pair; raises ValueError before anything runs."""
        exists = self.graph.exists
        check_pair(self.model, clean, corrupt)
        edited, other = (corrupt, clean) if self.direction == "denoising" else (clean, corrupt)
        reads, chunks = objective.reads(self.model, edited), self._chunks(edited)
        columns = ("effect", "exact") if self.exact and self.shares is not None else ("effect",)
        parts: list[Part] = []
        if self.shares is not None:
            parts.append(Part("gradients", np.flatnonzero(exists)))
        if self.exact:
            numbers = np.arange(exists.size).reshape(exists.shape) + (len(columns) - 1) * exists.size
            for kind, layer, receivers in self.graph.parts():
                senders, place = np.nonzero(exists[:, receivers])
                cells = numbers[senders, receivers.start + place]
                parts.append(Part(f"{kind}-{layer}", cells, (kind, layer, senders, place)))
        return InPieces(
            self.model, self.part, edited, objective, reads,
            Grid(("sender", "receiver"), exists.shape, missing=~exists.reshape(1, -1)), chunks, parts,
            partial(_Some, self, edited, other, objective, reads, chunks), identity=(other, *self.identity),
            columns=columns,
        )  # fmt: skip

    def _chunks(self, batch: Batch) -> Chunks:
        """Examples that are run together, and of each the edges that are patched together."""
        runs, room = 3 * len(self.graph.senders) + 6 * self.graph.layers, self.room
        streams = 10 * self.graph.receivers_a_layer + 2 * len(self.graph.senders)
        exact = choose_edge_chunks(self.part, batch, int(self.graph.exists.sum()), 0, runs, room)
        if self.shares is None:
            return exact
        gradients = choose_edge_chunks(self.part, batch, 1, streams, runs, room)
        if not self.exact:
            return gradients
        return Chunks(min(exact.examples, gradients.examples), exact.copies, exact.multiples)


@dataclass(frozen=True)
class _Some:
    """Some of the examples, with both runs, on the devices."""

    asking: EdgesAsking
    edited: Batch
    other: Batch
    objective: Objective
    reads: Reads
    chunks: Chunks
    examples: np.ndarray

    @cached_property
    def given(self) -> tuple[Any, Batch, Reads]:
        """Network, the batch that is edited, what is read of it."""
        room, examples = self.asking.room, self.examples
        batch, reads = room.devices.examples((self.edited.take(examples), self.reads.take(examples)))
        return room.network(self.asking.model), batch, reads

    @cached_property
    def theirs(self) -> Batch:
        """The other batch."""
        return self.asking.room.devices.examples(self.other.take(self.examples))

    @cached_property
    def runs(self) -> tuple[Nodes, Nodes]:
        """That of the batch that is edited, and the other."""
        network, edited, _ = self.given
        own, theirs = (run_nodes(network, batch, stack=self.asking.part.name) for batch in (edited, self.theirs))
        return own, theirs

    def ends(self) -> np.ndarray:
        """The objectives of both, `[2,B]`."""
        return self._ends

    @cached_property
    def _ends(self) -> np.ndarray:
        network, edited, reads = self.given
        both = zip((edited, self.theirs), self.runs, strict=True)
        found = [judge(network, batch, reads, run, **self._static) for batch, run in both]
        return np.stack([self.asking.room.devices.fetch(one).astype(np.float64) for one in found])

    @cached_property
    def change(self) -> jax.Array:
        """What each sender says differently in the other run, `[U,B,T,D]`."""
        own, other = self.runs
        return other.said - own.said

    def effects(self, key: tuple[str, int, np.ndarray, np.ndarray] | None) -> np.ndarray:
        """Of all edges, from gradients; or of the edges into one kind of a layer's receivers, patched in turn."""
        return self._gradients() if key is None else self._patched(*key)

    def _gradients(self) -> np.ndarray:
        shares, graph = self.asking.shares, self.asking.graph
        assert shares is not None
        own, other = self.runs
        sum_BVU = np.zeros((len(self.examples), *graph.exists.T.shape))
        for share in map(float, shares):
            embedded = (1 - share) * own.said[0] + share * other.said[0]
            found = edge_gradients(*self.given, embedded, self.change, **self._static)
            sum_BVU += self.asking.room.devices.fetch(found)
        return np.swapaxes(sum_BVU, 1, 2)[:, graph.exists] / len(shares)

    def _patched(self, kind: str, layer: int, senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
        devices, found_BC = self.asking.room.devices, np.empty((len(self.examples), len(senders)))
        for some in pieces(len(senders), self.chunks.copies):
            edges_C = devices.cells((senders[some].astype(np.int32), receivers[some].astype(np.int32)))
            values_CB = patch_each_edge(
                *self.given, self.runs[0], self.change, layer, *edges_C, kind=kind, **self._static
            )
            found_BC[:, some] = devices.fetch(values_CB).T
        return found_BC - self._ends[0][:, None]

    @property
    def _static(self) -> dict[str, Any]:
        return {"stack": self.asking.part.name, "value": self.objective.value}


def choose_edge_chunks(part: Stack, batch: Batch, copies: int, streams: int, shared: int, room: Resources) -> Chunks:
    """The largest pieces that fit the memory and the device's best matmul size; never less than one.

    Args:
        copies: of each example, at most.
        streams: floats a token of a copy holds, in units of D; `shared` likewise, of an example.
    """
    (examples, T), D = part.queries.of(batch).shape, part.width
    data, questions = room.devices.multiples
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(part.blocks))
    layer = 6 * D + 3 * widest + 3 * part.heads * (T + part.head_size)
    of_example, of_copy = 4 * T * shared * D, 4 * T * (streams * D + layer)
    most = max(1, min(matmul_tokens() // T, (room.memory - of_example) // of_copy))
    own = up(even(copies, questions * most), questions)
    each = min(most * questions // own, room.memory // (of_example + math.ceil(own / questions) * of_copy))
    return Chunks(up(even(examples, data * max(1, each)), data), own, (data, questions))


def pieces(count: int, size: int) -> Iterator[np.ndarray]:
    """Indices of each piece, all of one length: the last repeats its last."""
    return Chunks(size, 1).example_pieces(count)


def stack_with_edges(model: Model, stack: str | None) -> Stack:
    """The stack; raises ValueError where several streams are compared in the end."""
    part = model.stack(stack)
    if model.network.apart:
        raise ValueError(
            f"edges lead to where one stream is read; {model.name} compares the ends of several. Fix the others with "
            "jh.zero_shot, and ask about its model"
        )
    return part


def one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    """Raise ValueError for an option that is not known."""
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {given!r}")
