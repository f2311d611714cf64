"""Intervals on the pages of trained models: a mean, its bounds, and beside them what they were counted over.

Two things are random in these experiments: the seeds, which decide a model's weights and data, and the fresh examples
that it is measured on. An interval over seeds holds for the examples that all seeds share; one over examples holds for
these seeds. Pages give both where both matter.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxheads.statistics import Interval, mean_interval
from jaxheads.tables import marked_count

MARK = "†: fewer than 10; the interval is rough then."
"""Explanation of the mark of few values, for pages."""

EQUAL = (
    "Where all seeds have an accuracy or a share of exactly 1 (or 0), they are counted as so many successes (failures) "
    "and the interval is Wilson's."
)
"""Explanation of intervals of shares without spread, for pages."""

SHARE = (0.0, 1.0)
"""Range of shares and accuracies."""

POSITIVE = (0.0, np.inf)
"""Range of losses, divergences and steps."""

ANY = (-np.inf, np.inf)
"""Range of differences. Zeros among them are no shares."""

Within = tuple[float, float]


def interval(values: Sequence[float] | np.ndarray, within: Within = ANY) -> Interval:
    """Return the mean of values with its 95 % interval; missing values are left out, and no bound leaves `within`.

    Values of 0 and 1 alone are taken for shares of yes and no only where `within` is `SHARE`.
    """
    return mean_interval(np.asarray(values, float), within=within)


def bounds(of: Interval, form: str = ".2f") -> str:
    """Return the bounds as words: "[0.30, 0.57]"; of a single value there are none."""
    return f"[{of.low:{form}}, {of.high:{form}}]" if np.isfinite(of.low) else "no interval"


def words(values: Sequence[float] | np.ndarray, form: str = ".2f", within: Within = ANY) -> str:
    """Return a mean as words for a table with its own column of n: "0.43 [0.30, 0.57]"."""
    x = np.asarray(values, float)
    if np.isnan(x).all():
        return "–"
    of = interval(x, within)
    return f"{of.mean:{form}} {bounds(of, form)}"


def sentence(
    values: Sequence[float] | np.ndarray, of: str, form: str = ".2f", within: Within = ANY, unit: str = ""
) -> str:
    """Return a mean as words for a sentence: "0.43 nats [0.30, 0.57] (n = 6 † seeds)".

    Args:
        of: what is counted: "seeds", "sentences".
    """
    measured = interval(values, within)
    unit = unit and f" {unit}"
    return f"{measured.mean:{form}}{unit} {bounds(measured, form)} (n = {marked_count(float(measured.n))} {of})"


def beyond(of: Interval, least: float = 0.0) -> bool:
    """Return whether an interval lies wholly on one side of 0, further from it than `least`."""
    return bool(of.low > least or of.high < -least)


def groups(table: pd.DataFrame, by: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the groups of a table in its own order: the value of the column `by` (several: a tuple), and the rows."""
    yield from table.groupby(by, sort=False)
