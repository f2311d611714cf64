"""Selection of the best heads on one half of the examples, with their values on the other.

Dimension key: E examples, M metrics.
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..arguments import at_least, checked
from ..checks import nearest, one_of
from ..statistics import Interval, false_discovery, mean_interval, paired_p_values, split_halves, t_mean, wilson
from ..statistics.base import ratio
from ..tables import Column, HeadTable

INTERVALS = {"t": t_mean, "wilson": wilson}


@checked(n=at_least(1))
def held_out(
    table: HeadTable,
    metric: str | None = None,
    n: int = 5,
    *,
    largest: bool = True,
    absolute: bool = False,
    seed: int = 0,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return the `n` best heads of a table by `metric` (its first unless given), with values free of selection bias.

    Examples are split in halves by `seed`. One half chooses; the other alone gives the value and its interval. The
    difference of the two is the optimism, what a choice gains by luck: for the best of many heads on few examples it
    may be as large as the effect itself.

    Args:
        largest: whether large values are good.
        absolute: choose by size, whatever the sign (`largest` is then ignored).
        seed: of the split.
        clusters: labels `[E]` of examples that depend on each other, which go to one half together; the table's own
            when left out.

    Returns:
        Indexed as the table, best first: `chosen_by` (the value on the half that chose), the metric with `_low`,
        `_high` and `_n` on the other, `optimism`, by how much the first is better, `p` that the mean of the other half
        has the sign of the choice by chance alone, and `q`, corrected over the heads chosen (Benjamini & Hochberg
        1995).

    Raises:
        ValueError: where the table keeps no examples, or fewer than 4 (or 4 clusters); for an unknown metric.

    Warns:
        UserWarning: where examples repeat and no clusters are known: what chooses then also confirms.
    """
    name = table.metrics[0] if metric is None else metric
    if table.per_example is None or name not in table.metrics:
        hint = nearest(name, table.metrics)
        raise ValueError(
            f"metric: expected {name!r} with its examples kept, {table.name} has {', '.join(table.metrics)}{hint}"
        )
    values = table.per_example
    values = values[table.metrics.index(name)] if values.ndim == len(table.shape) + 2 else values
    labels = table.clusters if clusters is None else np.asarray(clusters)
    if labels is None:
        warn_of_repeats(values, table.name)
    first, second = split_halves(len(values), seed, labels)
    chosen = example_means(values[first]).reshape(-1)
    confirming = None if labels is None else labels[second]
    cells = values[second].reshape(len(second), -1)
    reported = _interval_within(cells, table.range_of(name), clusters=confirming, level=level)
    goodness = np.abs(chosen) if absolute else chosen if largest else -chosen
    order = np.argsort(-np.where(np.isnan(goodness), -np.inf, goodness), kind="stable")[:n]
    sign = np.sign(chosen) if absolute else np.full(chosen.shape, 1.0 if largest else -1.0)
    p = paired_p_values(sign * cells, np.zeros_like(cells), clusters=confirming)
    columns = {
        "chosen_by": chosen,
        name: reported.mean,
        f"{name}_low": reported.low,
        f"{name}_high": reported.high,
        f"{name}_n": reported.n,
        "optimism": sign * (chosen - reported.mean),
        "p": p,
    }
    frame = pd.DataFrame(columns, index=table.frame.index).join(table.frame.filter(["model"])).iloc[order]
    # Only the heads that were chosen are tested: the choice did not see these examples.
    return frame.assign(q=false_discovery(frame["p"].to_numpy()))


def _interval_within(rows: np.ndarray, within: tuple[float, float] | None, **options: Any) -> Interval:
    """Return the interval of the mean of rows, with bounds in a range that a ratio's linearised rows may leave."""
    if within is None or not ((rows < within[0]) | (rows > within[1])).any():
        return mean_interval(rows, within=within, **options)
    mean, low, high, n = mean_interval(rows, within=(-np.inf, np.inf), **options)
    return Interval(mean, np.clip(low, *within), np.clip(high, *within), n)


def warn_of_repeats(values: np.ndarray, name: str) -> None:
    """Warn where examples `[E,...]` repeat others in every cell, as copies of one input do.

    Rows of whole numbers are left out: shares and counts repeat by chance.
    """
    rows = np.nan_to_num(np.asarray(values, np.float64).reshape(len(values), -1))
    size = np.abs(rows).max(initial=0.0)
    rounded = np.round(rows / size, 6) if size > 0 else rows
    telling = rounded[(np.abs(rows - np.round(rows)) > 1e-9).any(axis=1)]
    repeats = len(telling) - len(np.unique(telling, axis=0))
    if repeats:
        warnings.warn(
            f"{name}: {repeats} of {len(rows)} examples repeat others; a half that chooses then also confirms, and "
            "intervals are too short. Give clusters=, one label for each group of kin examples",
            stacklevel=3,
        )


@checked()
def with_intervals(table: HeadTable, kind: str, *, level: float = 0.95) -> HeadTable:
    """Return a table with its intervals computed anew from its examples.

    Args:
        kind: "skew-corrected" (as measured), "t" (Student's), or "wilson" (of shares: values that are 0 or 1, as of
            `sink`). Only the first knows clusters.

    Raises:
        ValueError: for another kind, a table that keeps no examples or has clusters, or shares that are none.
    """
    one_of("kind", kind, ("skew-corrected", *INTERVALS))
    if table.per_example is None:
        raise ValueError(f"{table.name}: expected its examples to be kept; beyond 2,048 they are not")
    if table.clusters is not None and kind != "skew-corrected":
        raise ValueError(f'{table.name}: has clusters of examples, for which only "skew-corrected" intervals are right')
    single = table.per_example.ndim == len(table.shape) + 1
    values_ME = table.per_example[None] if single else table.per_example
    columns = {}
    for name, values_E in zip(table.metrics, values_ME, strict=True):
        if kind == "skew-corrected":
            interval = _interval_within(values_E, table.range_of(name), clusters=table.clusters, level=level)
        else:
            interval = INTERVALS[kind](values_E, level=level)
        columns[name] = Column(*interval, per_example=values_E, range=table.range_of(name))
    computed = {f"{name}{end}" for name in table.metrics for end in ("", "_low", "_high", "_n")}
    extras = {name: table.grid(name) for name in table.frame if name not in computed}
    about = {**table.provenance, "interval": kind, "level": level}
    axes = [str(axis) for axis in table.frame.index.names[1:]]
    return HeadTable.from_columns(
        table.name, table.stack, columns, about, squeeze=single, extras=extras, axes=axes, clusters=table.clusters
    )


def example_means(values_E: np.ndarray) -> np.ndarray:
    """Return the mean over examples `[E,...]` that are finite, `[...]`; NaN where none is."""
    known = np.isfinite(values_E)
    return ratio(np.where(known, values_E, 0.0).sum(axis=0), known.sum(axis=0))
