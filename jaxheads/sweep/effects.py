"""Tables of per-example effects: intervals, and cells that are not finite named and left out.

Dimension key: E examples, C cells of a grid, M columns (one grid of cells after the other), R rows of the accumulator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..models.model import Model
from ..objectives import Objective
from ..provenance import provenance
from ..statistics import GroupedRows, Interval, ratio_interval
from ..tables import Column, HeadTable
from .grid import Grid

UNBOUNDED = (-np.inf, np.inf)

MOST_NAMED = 1000
"""Cells that are not finite and named one by one; more are only counted."""


@dataclass(frozen=True)
class Effects:
    """The answer for one batch.

    Attributes:
        baseline: the objective of the unedited run, `[E]`.
        effects: objective of each edited copy less the baseline, `[E,M*C]`.
        total: the effect that counts as 1, `[E]`, if there is one. It adds the column `normalised`: the mean of the
            first column over the mean of the total (Zhang & Nanda 2024, section 2), with the interval of that ratio. A
            total whose mean is 0 gives NaN.
        clusters: labels `[E]`, if examples depend on each other.
    """

    baseline: np.ndarray
    effects: np.ndarray
    total: np.ndarray | None = None
    clusters: np.ndarray | None = None


class EffectAccumulator:
    """Effects of batch after batch: every example up to a limit, then groups of them in bounded memory.

    An effect that is not finite counts as missing; the first MOST_NAMED are named in `provenance["not_finite"]`, all
    are counted in `provenance["not_finite_count"]`. Cells that the grid calls missing are NaN, and no failure.
    """

    def __init__(
        self,
        columns: Sequence[str],
        shape: tuple[int, ...],
        limit: int | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ):
        """Start with no example; `ranges` are the least and largest values of columns, infinite when left out."""
        self.columns, self.shape, self.ranges = tuple(columns), shape, ranges or {}
        self.rows = GroupedRows() if limit is None else GroupedRows(max(2, limit))
        self.baseline = GroupedRows()
        self.not_finite: list[dict[str, Any]] = []
        self.examples, self.not_finite_count, self.has_total = 0, 0, False

    def add(self, effects: Effects, grid: Grid) -> None:
        """Add a batch; its columns and grid must fit those before."""
        absent = np.zeros_like(effects.effects, bool)
        if grid.missing is not None:
            absent |= np.tile(grid.missing, len(self.columns))
        # Nothing that overflowed may enter a mean; nothing that was never asked counts as lost.
        lost = ~np.isfinite(effects.effects) & ~absent
        self._name(lost, grid)
        cells = [np.where(lost | absent, np.nan, effects.effects)]
        if effects.total is not None:
            self.has_total = True
            cells.append(np.where(np.isfinite(effects.total), effects.total, np.nan)[:, None])
        self.rows.add(np.concatenate(cells, axis=1), effects.clusters)
        self.baseline.add(np.where(np.isfinite(effects.baseline), effects.baseline, np.nan))
        self.examples += len(effects.effects)

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
        """Return the table of all batches so far; `about` is its provenance, to which counts and means are added."""
        size, per_example = int(np.prod(self.shape)), self.rows.per_example
        # Effects of 0 and 1 are no shares: a range of their own, though infinite, keeps Wilson's interval away.
        ranges_M2 = np.array([self.ranges.get(column, UNBOUNDED) for column in self.columns])
        ranges_2C = np.concatenate([np.repeat(ranges_M2, size, axis=0), np.full((int(self.has_total), 2), np.nan)]).T
        interval = self.rows.interval(level=level, within=ranges_2C)
        columns = {}
        for number, column in enumerate(self.columns):
            own = slice(number * size, (number + 1) * size)
            examples = None if per_example is None else per_example[:, own]
            span = self.ranges.get(column, UNBOUNDED)
            columns[column] = self._column([bound[own] for bound in interval], examples, span)
        if self.has_total:
            columns["normalised"] = self._normalised(per_example, size, level)
        baseline = float(self.baseline.mean())
        about = {
            **about,
            "examples": self.examples,
            "unedited": baseline if np.isfinite(baseline) else None,
            "level": level,
            "seed": seed,
            "not_finite": self.not_finite,
            "not_finite_count": self.not_finite_count,
        }
        return HeadTable.from_columns(
            name,
            stack,
            columns,
            about,
            axes=axes,
            squeeze=len(columns) == 1,
            extras=extras,
            clusters=self.rows.clusters,
        )

    def _name(self, lost: np.ndarray, grid: Grid) -> None:
        self.not_finite_count += int(lost.sum())
        coordinates, size = grid.coordinates, grid.size
        for example, number in np.argwhere(lost)[: MOST_NAMED - len(self.not_finite)]:
            cell = {axis: int(index[number % size]) for axis, index in coordinates.items()}
            column = self.columns[number // size]
            self.not_finite.append({"column": column, "example": self.examples + int(example), **cell})

    def _normalised(self, per_example: np.ndarray | None, size: int, level: float) -> Column:
        """Return effects over the total, the accumulator's last column: the ratio of their means."""
        sums_RC, counts_RC = self.rows.grouped
        means_RC = np.where(counts_RC > 0, sums_RC, np.nan)
        interval = ratio_interval(means_RC[:, :size], means_RC[:, -1], level=level)._replace(n=self.rows.n[:size])
        if per_example is None:
            return self._column(interval, None)
        total = np.nanmean(per_example[:, -1]) if np.isfinite(per_example[:, -1]).any() else np.nan
        return self._column(interval, per_example[:, :size] / (total if total else np.nan))

    def _column(
        self,
        interval: Interval | list[np.ndarray],
        per_example: np.ndarray | None,
        span: tuple[float, float] = UNBOUNDED,
    ) -> Column:
        examples = None if per_example is None else per_example.reshape(len(per_example), *self.shape)
        mean, low, high, n = (np.asarray(field).reshape(self.shape) for field in interval)
        return Column(mean, low, high, n, examples, range=span)


def effect_provenance(model: Model, objective: Objective, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance that every table of effects has."""
    return provenance(model, objective=objective.name, **about)


def effect_table(
    name: str,
    stack: str,
    effects: Mapping[str, np.ndarray],
    baseline: np.ndarray,
    about: Mapping[str, Any],
    *,
    axes: Sequence[str],
    total: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> HeadTable:
    """Return the table of one batch's effects `[E, *grid]` by name; see `Effects` and `EffectAccumulator`."""
    (E, *shape) = next(iter(effects.values())).shape
    accumulator = EffectAccumulator(tuple(effects), tuple(shape), E, ranges)
    flat = np.concatenate([values.reshape(E, -1) for values in effects.values()], axis=1)
    accumulator.add(Effects(baseline, flat, total, clusters), Grid(tuple(axes), tuple(shape)))
    return accumulator.table(name, stack, axes, about, level=level, seed=seed)


def magnitude(column: Column) -> Column:
    """Return the magnitude of a mean, with the range of magnitudes in its interval; examples get the mean's sign."""
    mean, low, high = (np.asarray(bound, np.float64) for bound in (column.mean, column.low, column.high))
    # An interval that holds 0 folds over at 0; another keeps its ends, in turned order where it is negative.
    least = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    most = np.maximum(np.abs(low), np.abs(high))
    # With the mean's sign, not their own, the examples still average to the magnitude of the mean.
    examples = np.asarray(column.per_example) * np.where(mean < 0, -1.0, 1.0)
    return Column(np.abs(mean), least, most, column.n, examples)
