"""A question asked: planned or run, of one batch or of a stream of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..execution.journal import Journal, fingerprint
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.stack import Stack
from ..objectives import Objective
from ..progress import Advance
from ..progress import progress as show_progress
from ..statistics import check_level
from ..tables import HeadTable
from .effects import EffectAccumulator, Effects, asked_of
from .exact.plan import SweepPlan
from .exact.work import Sweep
from .grid import Grid

_planning: ContextVar[bool] = ContextVar("planning", default=False)


class Asked(Protocol):
    """What is asked of one batch, checked and ready to be run."""

    @property
    def model(self) -> Model: ...
    @property
    def stack(self) -> Stack: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def batch(self) -> Batch:
        """The run that is edited."""
        ...

    @property
    def grid(self) -> Grid: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def cells(self) -> int:
        """How many numbers each example costs work for."""
        ...

    @property
    def plan(self) -> SweepPlan | None:
        """What the engine would do, if it is a question for the engine."""
        ...

    def answer(self, name: str, resume: str | os.PathLike | None, advance: Advance, first: int) -> Effects:
        """Run it.

        Args:
            resume: where finished parts are kept.
            advance: is told how many (example, cell) pairs are done.
            first: the number of its first example in the stream.
        """
        ...


@dataclass(frozen=True)
class SweepAsked:
    """A question that the engine of sweeps answers.

    Attributes:
        identity: arrays and words that the answer depends on, beside model, batch and what is read.
        whole: gives the objective `[E]` of a run whose distance from the unedited one counts as 1, if there is one.
    """

    sweep: Sweep
    grid: Grid
    identity: tuple[Any, ...]
    whole: Callable[[], np.ndarray] | None = None
    columns: tuple[str, ...] = ("effect",)

    @property
    def model(self) -> Model:
        return self.sweep.model

    @property
    def stack(self) -> Stack:
        return self.sweep.stack

    @property
    def objective(self) -> Objective:
        return self.sweep.objective

    @property
    def batch(self) -> Batch:
        return self.sweep.batch

    @property
    def cells(self) -> int:
        return self.sweep.cells

    @property
    def plan(self) -> SweepPlan:
        return self.sweep.plan

    def answer(self, name: str, resume: str | os.PathLike | None, advance: Advance, first: int) -> Effects:
        """Run it; see `Asked`."""
        sweep = self.sweep
        journal = journal_of(self, name, resume, sweep.reads, self.identity, first)
        unedited_E, edited_EC = sweep.run(journal, advance, self.grid.coordinates, first)
        total_E = None if self.whole is None else journal.piece("whole", self.whole) - unedited_E
        return Effects(unedited_E, edited_EC - unedited_E[:, None], total_E)


def journal_of(
    asked: Asked, name: str, resume: str | os.PathLike | None, reads: Any, identity: tuple[Any, ...], first: int
) -> Journal:
    """Where finished parts of this very question are kept."""
    if resume is None:
        return Journal(None, "")
    words = (asked.objective.name, asked.stack.name, identity, first)
    return Journal(resume, f"{name}-{fingerprint(asked.model, asked.batch, reads, words)}")


def plan(question: Callable[..., HeadTable], *arguments: Any, **named: Any) -> SweepPlan:
    """What a sweep would do, without doing it: `jh.plan(jh.ablate, model, batch, objective).cost()`.

    Args:
        question: `ablate`, `patch` or `knock_out`; then its own arguments. Of a stream, the first batch is planned.

    Raises:
        ValueError: as the question itself does.
    """
    token = _planning.set(True)
    try:
        planned: Any = question(*arguments, **named)
    finally:
        _planning.reset(token)
    if not isinstance(planned, SweepPlan):
        raise _without_plan(question)
    return planned


def _without_plan(question: Any) -> ValueError:
    return ValueError(f"only sweeps of the engine have a plan (ablate, patch, knock_out); got {question!r}")


def answer(
    name: str,
    asked: Iterable[Asked],
    about: Mapping[str, Any],
    *,
    stream: bool,
    level: float,
    seed: int,
    progress: bool,
    resume: str | os.PathLike | None,
    extras: Callable[[], Mapping[str, ArrayLike]] | None = None,
) -> HeadTable:
    """The table of one question, or, if `stream`, of the same question asked of one batch after the other.

    Args:
        extras: gives further columns, asked for when the rest is done.
    """
    check_level(level)
    each = iter(asked)
    first = next(each, None)
    if first is None:
        raise ValueError("a stream must give at least one batch, got none")
    if _planning.get():
        if first.plan is None:
            raise _without_plan(name)
        return first.plan  # type: ignore[return-value]  # `plan` alone asks for it, and checks
    grid, E = first.grid, len(first.batch)
    gathered = EffectAccumulator(first.columns, grid.shape, None if stream else E)
    label = f"{name}: {first.cells} cells × {'examples' if stream else E}"
    with show_progress(None if stream else first.cells * E, label, progress) as advance:
        for one in _chain(first, each):
            if one.grid.shape != grid.shape:
                raise ValueError(f"all batches must give the same grid; got {grid.shape}, then {one.grid.shape}")
            gathered.add(one.answer(name, resume, advance, gathered.examples), one.grid)
    told = {**asked_of(first.model, first.objective), **about}
    more = None if extras is None else extras()
    return gathered.table(name, first.stack.name, grid.axes, told, level=level, seed=seed, extras=more)


def _chain(first: Asked, rest: Iterator[Asked]) -> Iterator[Asked]:
    yield first
    yield from rest
