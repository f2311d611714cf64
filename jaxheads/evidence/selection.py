"""Selection of the best heads on one half of the examples, with their values on the other.

Dimension key: E examples, M metrics.
"""

import numpy as np
import pandas as pd

from ..checks import one_of
from ..statistics import Interval, bootstrap_mean, split_halves, t_mean, wilson
from ..tables import Column, HeadTable

INTERVALS = {"bootstrap": bootstrap_mean, "t": t_mean, "wilson": wilson}


def held_out(
    table: HeadTable,
    metric: str | None = None,
    n: int = 5,
    *,
    largest: bool = True,
    absolute: bool = False,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return the `n` best heads of a table by `metric` (its first unless given), with values free of selection bias.

    Examples are split in halves by `seed`. One half chooses; the other alone gives the value and its interval. The
    difference of the two is the optimism, what a choice gains by luck: for the best of many heads on few examples it
    may be as large as the effect itself.

    Args:
        largest: whether large values are good.
        absolute: choose by size, whatever the sign (`largest` is then ignored).

    Returns:
        Indexed as the table, best first: `chosen_by` (the value on the half that chose), the metric with `_low` and
        `_high` on the other, and `optimism`, by how much the first is better.

    Raises:
        ValueError: where the table keeps no examples, or fewer than 4; for an unknown metric.
    """
    name = table.metrics[0] if metric is None else metric
    if table.per_example is None or name not in table.metrics:
        raise ValueError(f"{table.name}: expected {name!r} with its examples kept, got {', '.join(table.metrics)}")
    values = table.per_example
    values = values[table.metrics.index(name)] if values.ndim == len(table.shape) + 2 else values
    first, second = split_halves(len(values), seed)
    chosen = bootstrap_mean(values[first], level=level, seed=seed).mean.reshape(-1)
    reported = Interval(*(bound.reshape(-1) for bound in bootstrap_mean(values[second], level=level, seed=seed)))
    goodness = np.abs(chosen) if absolute else chosen if largest else -chosen
    order = np.argsort(-np.where(np.isnan(goodness), -np.inf, goodness), kind="stable")[:n]
    sign = np.sign(chosen) if absolute else 1 if largest else -1
    columns = {
        "chosen_by": chosen,
        name: reported.mean,
        f"{name}_low": reported.low,
        f"{name}_high": reported.high,
        "optimism": sign * (chosen - reported.mean),
    }
    return pd.DataFrame(columns, index=table.frame.index).iloc[order]


def with_intervals(table: HeadTable, kind: str, *, level: float = 0.95, seed: int = 0) -> HeadTable:
    """Return a table with its intervals computed anew from its examples.

    Args:
        kind: "bootstrap" (as measured), "t" (Student's), or "wilson" (of shares: values that are 0 or 1, as of `sink`).

    Raises:
        ValueError: for another kind, a table that keeps no examples, or shares that are none.
    """
    one_of("kind", kind, INTERVALS)
    if table.per_example is None:
        raise ValueError(f"{table.name}: expected its examples to be kept; beyond 2,048 they are not")
    single = table.per_example.ndim == len(table.shape) + 1
    values_ME = table.per_example[None] if single else table.per_example
    options = {"seed": seed} if kind == "bootstrap" else {}
    columns = {}
    for name, values_E in zip(table.metrics, values_ME, strict=True):
        mean, low, high = INTERVALS[kind](values_E, level=level, **options)
        columns[name] = Column(mean, low, high, values_E)
    computed = {f"{name}{end}" for name in table.metrics for end in ("", "_low", "_high")}
    extras = {name: table.grid(name) for name in table.frame if name not in computed}
    about = {**table.provenance, "interval": kind, "level": level, "seed": seed}
    axes = [str(axis) for axis in table.frame.index.names[1:]]
    return HeadTable.from_columns(table.name, table.stack, columns, about, squeeze=single, extras=extras, axes=axes)
