"""From per-example numbers to the table a user gets: intervals, and what was not finite named and kept apart.

Letters beside the usual ones: C cells of a grid, M columns, one grid of cells after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..models.model import Model
from ..objectives import Objective
from ..provenance import environment
from ..statistics import GroupedRows, Interval, bootstrap_ratio
from ..tables import Column, HeadTable
from .grid import Grid

MOST_NAMED = 1000
"""Cells that are not finite and named one by one; more are only counted."""


@dataclass(frozen=True)
class Effects:
    """Of one batch.

    Attributes:
        unedited: the objective of the run that is edited, `[E]`.
        effects: `[E,M*C]`.
        total: for each example `[E]` the effect that counts as 1, if there is one: adds the column `normalised`, the
            mean of the first column over the mean of the total (Zhang & Nanda 2024, section 2), with the interval of
            that ratio. A total whose mean is 0 gives NaN.
    """

    unedited: np.ndarray
    effects: np.ndarray
    total: np.ndarray | None = None


class EffectAccumulator:
    """Answers as they come: every example up to a limit, then groups of them in bounded memory.

    An effect that is not finite counts as missing; the first MOST_NAMED are named in `provenance["not_finite"]`, all
    are counted in `provenance["not_finite_count"]`. Where the grid says that there is nothing to be asked it is NaN,
    and no failure.
    """

    def __init__(self, columns: Sequence[str], shape: tuple[int, ...], limit: int | None = None):
        self.columns, self.shape = tuple(columns), shape
        self.rows = GroupedRows() if limit is None else GroupedRows(max(2, limit))
        self.unedited = GroupedRows()
        self.lost: list[dict[str, Any]] = []
        self.examples, self.count_lost, self.normalised = 0, 0, False

    def add(self, answer: Effects, grid: Grid) -> None:
        """One batch more, and its grid; both must fit those before."""
        absent = np.zeros_like(answer.effects, bool)
        if grid.missing is not None:
            absent |= np.tile(grid.missing, len(self.columns))
        lost = ~np.isfinite(answer.effects) & ~absent
        self._name(lost, grid)
        cells = [np.where(lost | absent, np.nan, answer.effects)]
        if answer.total is not None:
            self.normalised = True
            cells.append(np.where(np.isfinite(answer.total), answer.total, np.nan)[:, None])
        self.rows.add(np.concatenate(cells, axis=1))
        self.unedited.add(np.where(np.isfinite(answer.unedited), answer.unedited, np.nan))
        self.examples += len(answer.effects)

    def table(
        self,
        name: str,
        stack: str,
        axes: Sequence[str],
        about: Mapping[str, Any],
        *,
        level: float,
        seed: int,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> HeadTable:
        """All of them."""
        cells, kept = int(np.prod(self.shape)), self.rows.per_example
        interval = self.rows.interval(level=level, seed=seed)
        columns = {}
        for number, column in enumerate(self.columns):
            own = slice(number * cells, (number + 1) * cells)
            columns[column] = self._column([part[own] for part in interval], None if kept is None else kept[:, own])
        if self.normalised:
            columns["normalised"] = self._normalised(kept, cells, level=level, seed=seed)
        unedited = float(self.unedited.mean())
        about = {
            **about,
            "examples": self.examples,
            "unedited": unedited if np.isfinite(unedited) else None,
            "level": level,
            "seed": seed,
            "not_finite": self.lost,
            "not_finite_count": self.count_lost,
            **environment(),
        }
        return HeadTable.from_columns(name, stack, columns, about, axes=axes, squeeze=len(columns) == 1, extras=extras)

    def _name(self, lost: np.ndarray, grid: Grid) -> None:
        self.count_lost += int(lost.sum())
        called, cells = grid.coordinates, int(np.prod(self.shape))
        for example, number in np.argwhere(lost)[: MOST_NAMED - len(self.lost)]:
            at = {axis: int(numbers[number % cells]) for axis, numbers in called.items()}
            column = self.columns[number // cells]
            self.lost.append({"column": column, "example": self.examples + int(example), **at})

    def _normalised(self, kept: np.ndarray | None, cells: int, **how: Any) -> Column:
        """Effects over the total, the last of the columns: the ratio of their means, examples (rows) drawn together."""
        sums_RC, counts_RC = self.rows.grouped
        known_RC = np.where(counts_RC > 0, sums_RC, np.nan)
        interval = bootstrap_ratio(known_RC[:, :cells], known_RC[:, -1], **how)
        if kept is None:
            return self._column(interval, None)
        whole = np.nanmean(kept[:, -1]) if np.isfinite(kept[:, -1]).any() else np.nan
        return self._column(interval, kept[:, :cells] / (whole if whole else np.nan))

    def _column(self, interval: Interval | list[np.ndarray], kept: np.ndarray | None) -> Column:
        examples = None if kept is None else kept.reshape(len(kept), *self.shape)
        mean, low, high = (np.asarray(part).reshape(self.shape) for part in interval)
        return Column(mean, low, high, examples)


def effect_table(
    name: str,
    stack: str,
    effects: Mapping[str, np.ndarray],
    unedited: np.ndarray,
    about: Mapping[str, Any],
    *,
    axes: Sequence[str],
    total: np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> HeadTable:
    """A table of effects `[E, *grid]` by name, of one batch; see `Effects` and `EffectAccumulator`."""
    (E, *shape) = next(iter(effects.values())).shape
    gathered = EffectAccumulator(tuple(effects), tuple(shape), E)
    flat = np.concatenate([values.reshape(E, -1) for values in effects.values()], axis=1)
    gathered.add(Effects(unedited, flat, total), Grid(tuple(axes), tuple(shape)))
    return gathered.table(name, stack, axes, about, level=level, seed=seed)


def asked_of(model: Model, objective: Objective) -> dict[str, Any]:
    """What every answer says of its question."""
    return {"model": model.name, "weights": model.identity(), "objective": objective.name}
