"""A question asked: planned or run, of one batch or of a stream of them, what was not finite named and kept apart."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..progress import Advance
from ..progress import progress as show_progress
from ..provenance import environment
from ..statistics import GroupedRows, bootstrap_ratio, check_level
from ..tables import Column, HeadTable
from .answers import MOST_NAMED
from .cells import Grid
from .execute import Sweep
from .plan import SweepPlan
from .runs import Journal, fingerprint

_planning: ContextVar[bool] = ContextVar("planning", default=False)


@dataclass(frozen=True)
class Asked:
    """What is asked of one batch.

    Attributes:
        identity: arrays and words that the answer depends on, beside model, batch and what is read.
        whole: gives the objective `[E]` of a run whose distance from the unedited one counts as 1, if there is one.
    """

    sweep: Sweep
    grid: Grid
    identity: tuple[Any, ...]
    whole: Callable[[], np.ndarray] | None = None

    def answer(self, name: str, resume: str | os.PathLike | None, advance: Advance, first: int) -> "Answer":
        """Run it; `first` is the number of its first example."""
        sweep, journal = self.sweep, Journal(None, "")
        if resume is not None:
            words = (sweep.objective.name, sweep.stack.name, self.identity, first)
            journal = Journal(resume, f"{name}-{fingerprint(sweep.model, sweep.batch, sweep.reads, words)}")
        unedited_E, edited_EC = sweep.run(journal, advance, self.grid.coordinates, first)
        effects_EC = edited_EC - unedited_E[:, None]
        total_E = None if self.whole is None else journal.piece("whole", self.whole) - unedited_E
        return Answer(unedited_E, effects_EC, self.grid.missing, total_E)


@dataclass(frozen=True)
class Answer:
    """Of one batch: the objective of the unedited run `[E]`, effects `[E,C]`, cells that say nothing, the total."""

    unedited: np.ndarray
    effects: np.ndarray
    missing: np.ndarray | None
    total: np.ndarray | None


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
        raise ValueError(f"only sweeps of the engine have a plan (ablate, patch, knock_out); got {question!r}")
    return planned


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
    extras: Mapping[str, ArrayLike] | None = None,
) -> HeadTable:
    """The table of one question, or, if `stream`, of the same question asked of one batch after the other."""
    check_level(level)
    each = iter(asked)
    first = next(each, None)
    if first is None:
        raise ValueError("a stream must give at least one batch, got none")
    if _planning.get():
        return first.sweep.plan  # type: ignore[return-value]  # `plan` alone asks for it, and checks
    gathered = _Gathered(first.grid, GroupedRows() if stream else GroupedRows(max(2, len(first.sweep.batch))))
    cells = sum(map(len, first.sweep.plan.steps))
    label = f"{name}: {cells} cells × {'examples' if stream else len(first.sweep.batch)}"
    total = None if stream else cells * len(first.sweep.batch)
    with show_progress(total, label, progress) as advance:
        for one in _chain(first, each):
            if one.grid.shape != first.grid.shape:
                raise ValueError(f"all batches must give the same grid; got {first.grid.shape}, then {one.grid.shape}")
            gathered.add(one.answer(name, resume, advance, gathered.examples))
    sweep = first.sweep
    about = {"model": sweep.model.name, "weights": sweep.model.identity(), "objective": sweep.objective.name} | {
        **about
    }
    return gathered.table(name, sweep.stack.name, about, level=level, seed=seed, extras=extras)


def _chain(first: Asked, rest: Iterator[Asked]) -> Iterator[Asked]:
    yield first
    yield from rest


class _Gathered:
    """Answers as they come: every example up to a limit, then groups of them in bounded memory."""

    def __init__(self, grid: Grid, rows: GroupedRows):
        self.grid, self.rows, self.unedited = grid, rows, GroupedRows()
        self.lost: list[dict[str, int]] = []
        self.examples, self.count_lost, self.normalised = 0, 0, False

    def add(self, answer: Answer) -> None:
        """One batch more."""
        absent = np.zeros_like(answer.effects, bool) if answer.missing is None else answer.missing
        lost = ~np.isfinite(answer.effects) & ~absent
        self._name(lost)
        cells = [np.where(lost | absent, np.nan, answer.effects)]
        if answer.total is not None:
            self.normalised = True
            cells.append(np.where(np.isfinite(answer.total), answer.total, np.nan)[:, None])
        self.rows.add(np.concatenate(cells, axis=1))
        self.unedited.add(np.where(np.isfinite(answer.unedited), answer.unedited, np.nan))
        self.examples += len(answer.effects)

    def table(
        self, name: str, stack: str, about: Mapping[str, Any], *, level: float, seed: int, extras: Any
    ) -> HeadTable:
        """All of them."""
        shape, cells = self.grid.shape, int(np.prod(self.grid.shape))
        kept = self.rows.per_example
        interval = [part[:cells] for part in self.rows.interval(level=level, seed=seed)]
        columns = {"effect": _column(interval, None if kept is None else kept[:, :cells], shape)}
        if self.normalised:
            columns["normalised"] = _normalised(self.rows, kept, shape, level=level, seed=seed)
        unedited = float(self.unedited.mean())
        about = {
            **about,
            "examples": self.examples,
            "unedited": unedited if np.isfinite(unedited) else None,
            "level": level,
            "not_finite": self.lost,
            "not_finite_count": self.count_lost,
            **environment(),
        }
        return HeadTable.from_columns(
            name, stack, columns, about, axes=self.grid.axes, squeeze=len(columns) == 1, extras=extras
        )

    def _name(self, lost: np.ndarray) -> None:
        self.count_lost += int(lost.sum())
        called = self.grid.coordinates
        for example, cell in np.argwhere(lost)[: MOST_NAMED - len(self.lost)]:
            cells = {axis: int(numbers[cell]) for axis, numbers in called.items()}
            self.lost.append({"example": self.examples + int(example), **cells})


def _column(interval: Any, kept: np.ndarray | None, shape: tuple[int, ...]) -> Column:
    examples = None if kept is None else kept.reshape(len(kept), *shape)
    mean, low, high = (part.reshape(shape) for part in interval)
    return Column(mean, low, high, examples)


def _normalised(rows: GroupedRows, kept: np.ndarray | None, shape: tuple[int, ...], **how: Any) -> Column:
    """Effects over the total, the last of the columns: the ratio of their means, examples (rows) drawn together."""
    sums_RC, counts_RC = rows.grouped
    known_RC = np.where(counts_RC > 0, sums_RC, np.nan)
    interval = bootstrap_ratio(known_RC[:, :-1], known_RC[:, -1], **how)
    if kept is None:
        return _column(interval, None, shape)
    whole = np.nanmean(kept[:, -1]) if np.isfinite(kept[:, -1]).any() else np.nan
    return _column(interval, kept[:, :-1] / (whole if whole else np.nan), shape)
