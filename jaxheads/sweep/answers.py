"""From per-example numbers to the table a user gets: intervals, and what was not finite named and kept apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..models.model import Model
from ..objectives import Objective
from ..provenance import environment
from ..statistics import bootstrap_mean, bootstrap_ratio
from ..tables import Column, HeadTable

MOST_NAMED = 1000
"""Cells that are not finite and named one by one; more are only counted."""


def effect_table(
    name: str,
    stack: str,
    effects: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    *,
    axes: Sequence[str] = ("layer", "head"),
    total: np.ndarray | None = None,
    there: np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
    extras: Mapping[str, ArrayLike] | None = None,
) -> HeadTable:
    """A table of effects `[E, *grid]` by name, each a mean over examples with its bootstrap interval.

    Args:
        axes: of the grid.
        total: for each example `[E]`, the effect that counts as 1: adds the column `normalised`, the mean of the
            first effect over the mean of the total (Zhang & Nanda 2024, section 2), with the interval of that ratio.
            A total whose mean is 0 gives NaN.
        there: bool, broadcast to the effects: False where there is nothing to be asked, which is NaN and no failure.

    An effect that is not finite counts as missing; the first MOST_NAMED are named in `provenance["not_finite"]`, all
    are counted in `provenance["not_finite_count"]`.
    """
    lost, count, columns = [], 0, {}
    for column, values in effects.items():
        asked = np.broadcast_to(True if there is None else there, values.shape)
        failed = np.argwhere(asked & ~np.isfinite(values))
        count += len(failed)
        for where in failed[: MOST_NAMED - len(lost)]:
            lost.append({"column": column, **dict(zip(("example", *axes), map(int, where), strict=True))})
        kept = np.where(asked & np.isfinite(values), values, np.nan)
        columns[column] = Column(*bootstrap_mean(kept, level=level, seed=seed), kept)
    if total is not None:
        first = np.asarray(next(iter(columns.values())).per_example)
        per_one = np.where(np.isfinite(total), total, np.nan)
        interval = bootstrap_ratio(first, per_one, level=level, seed=seed)
        whole = np.nanmean(per_one) if np.isfinite(per_one).any() else np.nan
        columns["normalised"] = Column(*interval, first / (whole if whole else np.nan))
    about = {**about, "level": level, "seed": seed, "not_finite": lost, "not_finite_count": count}
    about |= environment()
    return HeadTable.from_columns(name, stack, columns, about, axes=axes, squeeze=len(columns) == 1, extras=extras)


def asked_of(model: Model, objective: Objective, unedited_E: np.ndarray) -> dict[str, Any]:
    """What every answer says of its question; `unedited` is the objective's mean in the run that is edited."""
    known_E = unedited_E[np.isfinite(unedited_E)]
    return {
        "model": model.name,
        "weights": model.identity(),
        "objective": objective.name,
        "examples": len(unedited_E),
        "unedited": float(known_E.mean()) if known_E.size else None,
    }
