"""Estimates beside exact effects: how far they lie apart, and which cells the estimates miss.

Dimension key: E examples, C cells.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arguments import checked
from ..statistics import check_level, mean_interval, rank_correlation
from ..tables import Column, HeadTable
from .effects import magnitude

WITHOUT_SIGN = ("atp+graddrop", "atp*")
"""Methods of attribution whose estimates are mean sizes."""

SHARE, LEAST = 0.5, 0.01
MOST_NAMED = 20

ENVIRONMENT = (
    "model",
    "weights",
    "objective",
    "versions",
    "python",
    "platform",
    "device",
    "command",
    "git",
    "time_utc",
)
"""Entries of provenance that the tables of one session share."""


@checked()
def compare_estimates(
    exact: HeadTable,
    estimates: HeadTable,
    *,
    share: float = SHARE,
    least: float = LEAST,
    level: float = 0.95,
) -> HeadTable:
    """Compare estimates from gradients with the exact effects that they stand for, cell by cell, on the same examples.

    A gradient is the slope where the run is. Before a step or a saturated softmax it is 0 however much the effect is,
    and behind a curve it may have the other sign. A cell is missed if the interval of its exact effect excludes 0, and
    its estimate is less than `share` of that effect, or has the other sign. It is overstated if the same holds with
    exact effect and estimate exchanged. What is below `least` of the largest over cells counts as 0. A single example
    has no interval: its effect counts as it is.

    Args:
        exact: of `patch`, `ablate` or `patch_edges`.
        estimates: of `attribute` or `importance`, for the same examples in the same order. Importance stands for the
            effects of `ablate(…, "zero")`. Importance, "atp+graddrop" and "atp*" have no sign: exact effects are then
            compared as sizes, example by example.
        share: from 0 to 1.
        level: of the intervals over examples, or over their clusters.

    Returns:
        One row a cell; `gap`, the size of the mean difference, comes first, so that the worst cells are printed first;
        then `difference`, estimate less exact effect, `exact` and `estimate`. The interval of the difference is over
        pairs, one an example. Extras `missed` and `overstated`. `.provenance["missed"]` and `["overstated"]` hold their
        count and the names of the worst, `["spearman"]` the rank correlation over cells.

    Raises:
        ValueError: for tables of other cells, examples, weights, objectives or runs, without per-example values, or a
            share out of range.
    """
    check_level(level)
    if not (0 < share <= 1 and 0 <= least < 1):
        raise ValueError(f"share must lie above 0 and up to 1, and least from 0 to below 1; got {share} and {least}")
    _check_comparable(exact, estimates)
    unsigned = _without_sign(estimates)
    clusters = exact.clusters if estimates.clusters is None else estimates.clusters
    exact_EC, estimate_EC = _first_metric(exact), _first_metric(estimates)
    if unsigned:
        exact_EC, estimate_EC = np.abs(exact_EC), np.abs(estimate_EC)
    values = {"difference": estimate_EC - exact_EC, "exact": exact_EC, "estimate": estimate_EC}
    # Effects of 0 and 1 are no shares: a range of their own keeps Wilson's interval away.
    ranges = {name: (0.0 if unsigned and name != "difference" else -np.inf, np.inf) for name in values}
    columns = {
        name: Column(*mean_interval(x, clusters=clusters, within=ranges[name], level=level), per_example=x)
        for name, x in values.items()
    }
    columns = {"gap": magnitude(columns["difference"]), **columns}
    effect, estimate, gap = columns["exact"], columns["estimate"], np.asarray(columns["gap"].mean)
    extras = {
        "missed": falls_short(effect, estimate, share, least),
        "overstated": falls_short(estimate, effect, share, least),
    }
    about: dict[str, Any] = {name: named(exact, extra, gap) for name, extra in extras.items()}
    about |= {"share": share, "least": least, "level": level, "examples": exact.examples}
    about["spearman"] = rank_correlation(np.asarray(effect.mean), np.asarray(estimate.mean))
    about |= {"exact": _question(exact), "estimates": _question(estimates), "without_sign": unsigned}
    shared = {name: estimates.provenance[name] for name in ENVIRONMENT if name in estimates.provenance}
    axes = [str(axis) for axis in exact.frame.index.names[1:]]
    return HeadTable.from_columns(
        "compare_estimates",
        exact.stack,
        columns,
        shared | about,
        axes=axes,
        extras={**extras, **_node_names(exact)},
        clusters=clusters,
    )


def falls_short(whole: Column, part: Column, share: float = SHARE, least: float = LEAST) -> np.ndarray:
    """Return where the whole's interval excludes 0 and the part is less than a share of it, or has another sign.

    Args:
        least: the share of the largest `whole` below which a cell counts as 0.
    """
    mean, low, high, other = (np.asarray(x, np.float64) for x in (whole.mean, whole.low, whole.high, part.mean))
    # Rounding makes effects of 1e-7 with a sign of their own: next to the largest they are nothing.
    floor = least * np.nanmax(np.abs(mean), initial=0.0)
    # One example has no interval, and nothing to generalise to: there its effect is all there is.
    certain = (low > 0) | (high < 0) | (np.isnan(low) & np.isnan(high))
    return certain & (np.abs(mean) > floor) & (other * np.sign(mean) < share * np.abs(mean))


def named(table: HeadTable, chosen: np.ndarray, gap: np.ndarray) -> dict[str, Any]:
    """Return the number of chosen cells and the names of those with the largest gaps, as words for the provenance."""
    cells = np.argwhere(chosen)
    worst = cells[np.argsort(-gap[chosen], kind="stable")][:MOST_NAMED]
    nodes = _node_names(table)
    if nodes:
        names = [" > ".join(str(names[tuple(cell)]) for names in nodes.values()) for cell in worst]
    else:
        names = [".".join(map(str, cell)) for cell in worst]
    return {"count": len(cells), "worst": names}


def missed_words(table: HeadTable, exact: Column, estimate: Column) -> dict[str, Any]:
    """Return what a table of estimates beside exact effects says of the cells that the estimates miss."""
    gap = np.abs(np.asarray(estimate.mean, np.float64) - np.asarray(exact.mean, np.float64))
    missed = named(table, falls_short(exact, estimate), gap)
    return {"missed": missed | {"share": SHARE, "least": LEAST}}


def _first_metric(table: HeadTable) -> np.ndarray:
    """Return the values of a table's first metric, example by example, `[E, *grid]` float64."""
    assert table.per_example is not None
    squeezed = table.values.ndim == len(table.shape)
    return np.asarray(table.per_example if squeezed else table.per_example[0], np.float64)


def _without_sign(estimates: HeadTable) -> bool:
    return estimates.metrics[0] == "importance" or estimates.provenance.get("method") in WITHOUT_SIGN


def _node_names(table: HeadTable) -> Mapping[str, np.ndarray]:
    """Return the names of senders and receivers, where a table is over edges."""
    return {name: table.grid(name) for name in ("sender_node", "receiver_node") if name in table.frame}


def _question(table: HeadTable) -> dict[str, Any]:
    """Return which question a table answers, as words for the provenance."""
    words = ("method", "direction", "site", "means", "reference", "granularity")
    return {"table": table.name, **{word: table.provenance[word] for word in words if word in table.provenance}}


def _check_comparable(exact: HeadTable, estimates: HeadTable) -> None:
    tables = {"exact": exact, "estimates": estimates}
    for name, table in tables.items():
        if table.per_example is None:
            raise ValueError(f"{name} needs per-example values to be paired; {table.name} has none (a long stream?)")
    what = {
        "cells": [(table.stack, list(table.frame.index.names), table.shape) for table in tables.values()],
        "number of examples": [table.examples for table in tables.values()],
        **{key: [table.provenance.get(key) for table in tables.values()] for key in ("weights", "objective")},
    }
    if _question(exact).keys() & _question(estimates).keys() >= {"direction"}:
        what["direction"] = [table.provenance["direction"] for table in tables.values()]
    for name, (first, second) in what.items():
        if first != second:
            raise ValueError(f"exact effects and estimates must have the same {name}; got {first} and {second}")
    if estimates.provenance.get("normalise") is not None:
        raise ValueError("importance that is normalised by layer is in no unit of the objective: give normalise=None")
    # The objective's mean in the unedited run gives away other examples, and a run edited in the other direction.
    first, second = (table.provenance.get("unedited") for table in tables.values())
    if first is not None and second is not None and not np.isclose(first, second, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"exact effects and estimates must be of the same unedited run; the objective's mean in it is {first:.6g} "
            f"and {second:.6g}: give the same examples and direction"
        )
