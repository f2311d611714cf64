"""What path patching is asked: checked, cut into pieces, and run sender layer by sender layer."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...models.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...progress import Advance
from ...progress import progress as show_progress
from ...tables import HeadTable
from ..answers import asked_of, effect_table
from ..chunks import Chunks, even, matmul_tokens
from ..patch import check_pair, first_difference
from ..plan import Sizes
from ..runs import Journal, fingerprint
from .ends import chosen_positions, places_of
from .engine import Piece, run_both
from .streams import Places, Way

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
        words: all else that the answer depends on, for provenance.
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
    memory: int
    words: dict[str, Any]

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
        memory: int,
    ) -> "Question":
        """As `jaxheads.paths` explains; raises ValueError before anything runs."""
        for name, given, known in (
            ("direction", direction, ("noising", "denoising")),
            ("mlps", mlps, ("recomputed", "frozen")),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {given!r}")
        part = model.stack(stack)
        if part.name != model.network.streams[-1].name or part.cross is not None:
            raise ValueError(
                f"paths end at the logits, through a stream that one stack alone writes to; the {part.name} of "
                f"{model.name} is not such a stack"
            )
        check_pair(model, clean, corrupt)
        base, other = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        chosen_BT = chosen_positions(positions, part.queries.of(base))
        places, first = places_of(chosen_BT, first_difference(part, clean, corrupt), causal=part.causal)
        words = {"direction": direction, "mlps": mlps, "positions": "all" if positions is None else "some"}
        way = Way(part.name, first, mlps == "frozen")
        reads = objective.reads(model, base)
        return cls(model, part, base, other, objective, reads, chosen_BT, places, way, memory, words)

    @property
    def static(self) -> dict[str, Any]:
        """What the engine is compiled for."""
        return {"way": self.way, "value": self.objective.value}

    @property
    def changing(self) -> int:
        """How many positions of a copy are run."""
        return self.stack.queries.count(self.base) - self.way.first

    def check_rows(self) -> None:
        """Raise ValueError if the objective reads some example at none of the positions: the logits then receive
        nothing that shows."""
        read_BR = np.take_along_axis(self.positions, np.asarray(self.reads.rows), axis=1)
        if self.reads.weight is not None:
            read_BR &= np.asarray(self.reads.weight) != 0
        missed = np.flatnonzero(~read_BR.any(axis=1))
        if missed.size:
            raise ValueError(
                f"{self.objective.name} reads the logits at none of the positions in examples {missed[:8].tolist()}"
            )

    def together(self, positions: int) -> int:
        """How many copies of one example, each of so many positions, fit memory and the device's best matmul size."""
        sizes = Sizes.of(self.model, self.stack, self.base, self.reads)
        return max(1, min(matmul_tokens() // positions, self.memory // (2 * (sizes.copied + sizes.cached))))

    def chunks(self, positions: int) -> Chunks:
        """Examples, and senders of one layer, that are run together."""
        senders = even(self.stack.heads, self.together(positions))
        return Chunks(even(len(self.base), max(1, self.together(positions) // senders)), senders)

    def answer(
        self,
        name: str,
        ways: "Ways",
        *,
        words: Mapping[str, Any],
        level: float,
        seed: int,
        progress: bool,
        resume: str | os.PathLike | None,
    ) -> HeadTable:
        """The table of all effects; `words` are what else the answer depends on."""
        if not 0 < level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level}; 95 % is 0.95")
        journal, words = self._journal(resume, name, words), {**self.words, **words}
        label = f"{name}: senders of {len(ways.layers)} layers × {len(self.base)} examples"
        with show_progress(len(ways.layers) * len(self.base), label, progress) as advance:
            ends_2E, values = self._run(ways, journal, advance)
        base_E, other_E = ends_2E
        changes = values - base_E.reshape(-1, *[1] * ways.there.ndim)
        return effect_table(
            name,
            self.stack.name,
            {"effect": changes},
            {**asked_of(self.model, self.objective, base_E), **words},
            axes=AXES[: ways.there.ndim],
            total=other_E - base_E,
            there=ways.there,
            level=level,
            seed=seed,
        )

    def _run(self, ways: "Ways", journal: Journal, advance: Advance) -> tuple[np.ndarray, np.ndarray]:
        """The objectives `[2,E]` of the run that is edited and of the other, and of all copies, `[E,L,N,…]`."""
        ends_2E, values = np.empty((2, len(self.base))), np.full((len(self.base), *ways.there.shape), np.nan)
        for chosen in Chunks(ways.examples, 1).example_pieces(len(self.base)):
            kept, some, name = np.unique(chosen), _Some(self, chosen), f"{ways.examples}-from-{chosen[0]}"
            ends_2E[:, kept] = journal.piece(f"{name}-runs", some.ends)
            numbers = np.ix_(kept, *map(np.arange, ways.there.shape[1:]))
            cells = dict(zip(("example", *AXES[1:]), numbers, strict=False))
            for layer in ways.layers:
                part, coordinates = f"{name}-layer-{layer}", {"layer": np.array(layer), **cells}
                values[kept, layer] = journal.piece(part, partial(some.asked, ways.ask, layer), coordinates)
                advance(len(kept))
        return ends_2E, values

    def _journal(self, resume: str | os.PathLike | None, name: str, words: Any) -> Journal:
        """Where finished pieces of this very question are kept."""
        if resume is None:
            return Journal(None, "")
        arrays = (self.base, self.other, self.reads, self.places)
        told = (self.objective.name, self.stack.name, repr((self.words, words)))
        return Journal(resume, f"{name}-{fingerprint(self.model, arrays, told)}")


@dataclass(frozen=True)
class Ways:
    """Which paths are asked about, and how.

    Attributes:
        ask: from some examples and a sender layer to the objectives of its copies, `[B,N,…]`.
        there: bool `[L,N,…]`, which cells have a path; the others are NaN.
        examples: at a time.
    """

    ask: Callable[[Piece, int], np.ndarray]
    there: np.ndarray
    examples: int

    @property
    def layers(self) -> list[int]:
        """Those with a sender."""
        return np.flatnonzero(self.there.reshape(len(self.there), -1).any(axis=1)).tolist()


@dataclass(frozen=True)
class _Some:
    """Some of the examples, the last perhaps repeated, with their runs, made when they are first asked for."""

    question: Question
    examples: np.ndarray

    @cached_property
    def piece(self) -> Piece:
        asked, network = self.question, self.question.model.network
        batch, other, reads = asked.base.take(self.examples), asked.other.take(self.examples), asked.reads
        reads, places = reads.take(self.examples), asked.places.take(self.examples)
        return Piece(network, batch, reads, run_both(network, batch, other, reads, **asked.static), places)

    def ends(self) -> np.ndarray:
        """The objectives of both runs, each example once."""
        runs = self.piece.runs
        return np.asarray([runs.value, runs.other], np.float64)[:, : len(np.unique(self.examples))]

    def asked(self, ask: Callable[[Piece, int], np.ndarray], layer: int) -> np.ndarray:
        """The objectives of a sender layer's copies, each example once."""
        return ask(self.piece, layer)[: len(np.unique(self.examples))]
