"""Questions that are answered some examples at a time, and of these one part of the cells after the other.

The engine of sweeps has its own way (`execute`); gradients, paths and edges share this one.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..execution.batching import Chunks
from ..execution.journal import Journal
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.stack import Stack
from ..objectives import Objective, Reads
from ..progress import Advance
from .effects import Effects
from .grid import Grid
from .memory import each_piece, memory_runs_out
from .question import journal_of


class Part(NamedTuple):
    """Cells (of all columns, one grid after the other) that are answered together; `key` is what they are asked by."""

    name: str
    cells: np.ndarray
    key: Any = None


class Some(Protocol):
    """Some examples of a question, the last perhaps repeated. What their parts share is computed once, when it is first
    needed: a run that goes on may have it all on disk."""

    def ends(self) -> np.ndarray:
        """The objective of the run that is edited and, if there is one, of the other, `[1 or 2,B]`."""
        ...

    def effects(self, key: Any) -> np.ndarray:
        """Of a part's cells, `[B,cells]`."""
        ...


@dataclass(frozen=True)
class InPieces:
    """A question about one batch; `ask.Asked` says what its fields mean that are not told here.

    Attributes:
        some: from the indices of some examples to the work on them.
        identity: arrays and words that the answer depends on, beside model, batch and what is read.
        sizes: whether effects have no sign: the whole difference then counts without its sign, too.
    """

    model: Model
    stack: Stack
    batch: Batch
    objective: Objective
    reads: Reads
    grid: Grid
    chunks: Chunks
    parts: Sequence[Part]
    some: Callable[[np.ndarray], Some]
    identity: tuple[Any, ...]
    columns: tuple[str, ...] = ("effect",)
    sizes: bool = False
    plan: None = None

    @property
    def cells(self) -> int:
        return sum(len(part.cells) for part in self.parts)

    def answer(self, name: str, resume: str | os.PathLike | None, advance: Advance, first: int) -> Effects:
        """Run it; see `Asked`."""
        journal = journal_of(self, name, resume, self.reads, self.identity, first)
        E, called = len(self.batch), self.grid.coordinates
        ends: list[np.ndarray | None] = [None] * E
        effects_EC = np.full((E, len(self.columns) * int(np.prod(self.grid.shape))), np.nan)

        def run(examples: np.ndarray) -> None:
            kept = np.unique(examples)
            ends_2B, found = self._piece(examples, first, journal, called, advance)
            for place, example in enumerate(kept):
                ends[example] = ends_2B[:, place]
            for part, effects_BC in zip(self.parts, found, strict=True):
                effects_EC[np.ix_(kept, part.cells)] = effects_BC

        each_piece(self.chunks, E, run)
        unedited_E, *other = np.stack(ends, axis=1)  # type: ignore[arg-type]  # every example was in a piece
        total_E = other[0] - unedited_E if other else None
        return Effects(unedited_E, effects_EC, np.abs(total_E) if self.sizes and total_E is not None else total_E)

    def _piece(
        self, examples: np.ndarray, first: int, journal: Journal, called: Mapping[str, np.ndarray], advance: Advance
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Of some examples, each once: the ends, and the effects of each part. `first` is the number of the batch's
        first example in the parts that are written."""
        some, kept, cells = self.some(examples), np.unique(examples), int(np.prod(self.grid.shape))
        found, name = [], f"{len(examples)}-from-{first + kept[0]}"
        with memory_runs_out():
            ends_2B = journal.piece(f"{name}-ends", lambda: some.ends()[:, : len(kept)])
            for part in self.parts:
                at = {axis: numbers[part.cells % cells][None] for axis, numbers in called.items()}
                effects_BC = journal.piece(
                    f"{name}-{part.name}",
                    lambda part=part: some.effects(part.key)[: len(kept)],
                    {"example": first + kept[:, None], **at},
                )
                found.append(effects_BC)
                advance(effects_BC.size)
        return ends_2B, found
