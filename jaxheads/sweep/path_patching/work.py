"""What path patching is asked: checked, cut into pieces, and run sender layer by sender layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...execution.batching import Chunks, even, matmul_tokens, up
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.sharding import fetch
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ..exact.engine import end_of, stream_of
from ..exact.patch import check_pair, first_difference
from ..exact.plan import Sizes
from ..exact.work import Resources
from ..grid import Grid
from ..pieces import InPieces, Part
from .engine import Piece, run_both
from .receivers import chosen_positions, places_of
from .streams import Places, Way, hears_own_layer

AXES = ("layer", "head", "receiver_layer", "receiver_head")
"""Of senders, and of receivers where these are not all one cell."""

Direction = Literal["noising", "denoising"]
MLPs = Literal["recomputed", "frozen"]


@dataclass(frozen=True)
class Question:
    """Two runs, what is read of them, where receivers receive, and how the work is cut.

    Attributes:
        base: the run that is edited.
        other: the one that values come from.
        positions: where receivers receive, bool `[B,T]`.
        places: the same for the engine, less what can't change.
    """

    model: Model
    stack: Stack
    base: Batch
    other: Batch
    objective: Objective
    reads: Reads
    positions: np.ndarray
    places: Places
    way: Way
    room: Resources

    @classmethod
    def asked(
        cls,
        model: Model,
        clean: Batch,
        corrupt: Batch,
        objective: Objective,
        *,
        direction: Direction,
        mlps: MLPs,
        positions: ArrayLike | None,
        stack: str | None,
        room: Resources,
    ) -> "Question":
        """As `jaxheads.paths` explains; raises ValueError before anything runs."""
        for name, given, known in (
            ("direction", direction, ("noising", "denoising")),
            ("mlps", mlps, ("recomputed", "frozen")),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {given!r}")
        part = model.stack(stack)
        if model.network.apart:
            raise ValueError(
                f"paths end where one stream is read; {model.name} compares the ends of several. Fix the others with "
                "jh.zero_shot, and ask about its model"
            )
        check_pair(model, clean, corrupt)
        base, other = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        chosen_BT = chosen_positions(positions, part.queries.of(base))
        places, first = places_of(chosen_BT, first_difference(part, clean, corrupt), causal=part.causal)
        way = Way(part.name, first, mlps == "frozen")
        reads = objective.reads(model, base)
        return cls(model, part, base, other, objective, reads, chosen_BT, places, way, room)

    @property
    def static(self) -> dict[str, Any]:
        """What the engine is compiled for."""
        return {"way": self.way, "value": self.objective.value}

    @property
    def stream(self) -> Stack:
        """The stack that the stream belongs to."""
        return stream_of(self.model.network, self.stack.name)

    @property
    def end(self) -> str:
        """What reads the end of the stream: the "logits", or as "memory" the stacks that follow."""
        return end_of(self.model.network, self.stack.name)

    def nearest(self, receivers: str, site: str) -> int:
        """The first layer whose receivers, of a stack and at a site, hear a sender; counted from its own."""
        return 0 if hears_own_layer(self.stream, self.stack.name, receivers, site) else 1

    @property
    def changing(self) -> int:
        """How many positions of a copy are run."""
        return self.stack.queries.count(self.base) - self.way.first

    def check_rows(self) -> None:
        """Raise ValueError if the objective reads some example at none of the positions: the logits then receive
        nothing that shows."""
        if self.end == "memory":
            return
        read_BR = np.take_along_axis(self.positions, np.asarray(self.reads.rows), axis=1)
        if self.reads.weight is not None:
            read_BR &= np.asarray(self.reads.weight) != 0
        missed = np.flatnonzero(~read_BR.any(axis=1))
        if missed.size:
            raise ValueError(
                f"{self.objective.name} reads the logits at none of the positions in examples {missed[:8].tolist()}"
            )

    def together(self, positions: int) -> int:
        """How many copies of one example, each of so many positions, fit memory and the device's best matmul size, on
        all devices."""
        sizes = Sizes.of(self.model, self.stack, self.base, self.reads)
        room = min(matmul_tokens() // positions, self.room.memory // (2 * (sizes.copied + sizes.cached)))
        return math.prod(self.room.devices.multiples) * max(1, room)

    def chunks(self, positions: int) -> Chunks:
        """Examples, and senders of one layer, that are run together."""
        together, (data, questions) = self.together(positions), self.room.devices.multiples
        senders = up(even(self.stack.heads, together), questions)
        examples = up(even(len(self.base), max(1, together // senders)), data)
        return Chunks(examples, senders, (data, questions))

    def in_pieces(self, ways: "Ways", identity: tuple[Any, ...]) -> InPieces:
        """The work, cut into pieces; `identity` holds the words that the answer depends on."""
        shape = ways.there.shape
        numbers = np.arange(math.prod(shape)).reshape(len(ways.there), -1)
        there = ways.there.reshape(numbers.shape)
        parts = [Part(f"layer-{layer}", numbers[layer], layer) for layer in np.flatnonzero(there.any(axis=1)).tolist()]
        return InPieces(
            self.model, self.stack, self.base, self.objective, self.reads,
            Grid(AXES[: len(shape)], shape, missing=~there.reshape(1, -1)), ways.chunks, parts,
            partial(_Some, self, ways), identity=(self.other, self.places, *identity),
        )  # fmt: skip


@dataclass(frozen=True)
class Ways:
    """Which paths are asked about, and how.

    Attributes:
        ask: from some examples and a sender layer to the objectives of its copies, `[B,N,…]`.
        there: bool `[L,N,…]`, which cells have a path; the others are NaN.
        chunks: examples and senders at a time.
    """

    ask: Callable[[Piece, int], np.ndarray]
    there: np.ndarray
    chunks: Chunks


@dataclass(frozen=True)
class _Some:
    """Some of the examples, with their runs, on the devices."""

    question: Question
    ways: Ways
    examples: np.ndarray

    @cached_property
    def piece(self) -> Piece:
        """What all copies share."""
        asked, devices = self.question, self.question.room.devices
        network = asked.room.network(asked.model)
        batch, other, reads, places = (
            devices.examples(one.take(self.examples)) for one in (asked.base, asked.other, asked.reads, asked.places)
        )
        return Piece(network, batch, reads, run_both(network, batch, other, reads, **asked.static), places)

    def ends(self) -> np.ndarray:
        """The objectives of both runs, `[2,B]`."""
        return np.stack([fetch(end).astype(np.float64) for end in (self.piece.runs.value, self.piece.runs.other)])

    def effects(self, key: int) -> np.ndarray:
        """Of the copies whose senders are in this layer."""
        values = self.ways.ask(self.piece, key)
        return (values - self.ends()[0].reshape(-1, *[1] * (values.ndim - 1))).reshape(len(values), -1)
