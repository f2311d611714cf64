"""The page of `experiments.factors`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import EQUAL, MARK, SHARE, beyond, groups, interval, sentence, words

CELL = ["task", "layers", "heads", "head size"]
KINDS = ("own data", "without shortcut")
DIFFERENCE = (-1.0, 1.0)


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each cell of the grid and kind of data measured: the mean accuracy with its interval."""
    rows = []
    for key, group in groups(runs, [*CELL, "data"]):
        for kind in KINDS:
            of = interval(group[f"accuracy, {kind}"].to_numpy(float), SHARE)
            row = {**dict(zip((*CELL, "data"), key, strict=True)), "measured on": kind, "accuracy": float(of.mean)}
            rows.append({**row, "low": float(of.low), "high": float(of.high), "n": int(of.n)})
    return pd.DataFrame(rows)


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each cell: how much more accurate models of varied data are without the shortcut, by seed."""
    rows = []
    for key, group in groups(runs, CELL):
        by_seed: Any = group.pivot(index="seed", columns="data", values="accuracy, without shortcut")
        of = interval((by_seed["varied"] - by_seed["shortcut"]).to_numpy(float), DIFFERENCE)
        row = {**dict(zip(CELL, key, strict=True)), "varied − shortcut": float(of.mean), "low": float(of.low)}
        rows.append({**row, "high": float(of.high), "n": int(of.n), "shown": beyond(of)})
    return pd.DataFrame(rows)


def page(
    training: Mapping[str, Any],
    by_shortcut: Mapping[str, float],
    runs: pd.DataFrame,
    longer: pd.DataFrame,
    means: pd.DataFrame,
    compared: pd.DataFrame,
) -> str:
    """Return the page for readers.

    Args:
        training: seeds, steps, batch, width, examples evaluated, and the factor of the longer training.
        by_shortcut: the accuracy of the shortcut alone, by task.
        runs: a row for each model.
        longer: a row for each model that was trained for longer.
        means: of `over_seeds`.
        compared: of `differences`.
    """
    return f"""# Data with a shortcut teach the shortcut

Attention-only models of width {training["width"]}; {training["seeds"]} seeds for each cell of the grid,
{training["steps"]} training steps of {training["batch"]} examples. {len(runs)} models. Each seed is measured on
{training["evaluated"]} fresh examples of its own kind of data, and on as many without the shortcut. The data either
leave a positional shortcut (segments of one length; no attractors) or are varied and leave none. Intervals are of 95 %
over seeds, with their own weights, training data and examples. {MARK}
{EQUAL}

## Findings

{findings(by_shortcut, means, compared)}

## Withdrawn

This page used to say which factor shapes the specialisation of heads, and that more heads at equal width do not help.
Both are withdrawn. At equal width, the number of heads decides their size, and after equal steps both decide how far
training is: the three are one factor of this grid, and nothing here tells them apart. {too_short(runs, longer)} The
share of specialised heads was compared with untrained heads of all sizes together. The other two outcomes grow with the
number of heads by their definition: 1 − effective heads / heads is at most 1 − 1 / heads, and a count of needed heads
is at most their number.

{longer_table(runs, longer)}

## Accuracy

The shortcut alone: the accuracy, on data without it, of a predictor that knows nothing else. For induction it is the
share of predictions in segments of the one length, for agreement that of sentences whose nearest noun is right. The
difference is taken seed by seed.

{accuracy_table(by_shortcut, means, compared)}

## Limits

Two tasks, one width, one rate. The rows of the table differ in heads, size of heads and progress at once: only data are
to be compared, within a row. A cell whose models do not solve their own data says nothing about the shortcut.
"""


def findings(by_shortcut: Mapping[str, float], means: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return the findings as a list, a line a task."""
    lines = []
    for task, of_task in groups(means, "task"):
        by_kind = {
            kind: of_task[(of_task["data"] == "shortcut") & (of_task["measured on"] == kind)].to_dict("records")
            for kind in KINDS
        }
        own, without = (_range(by_kind[kind]) for kind in KINDS)
        cells: Any = compared[compared["task"] == task]
        more = int((cells["shown"] & (cells["varied − shortcut"] > 0)).sum())
        n = marked_count(cells["n"].min())
        lines.append(
            f"- {task.capitalize()}: models of data with the shortcut reach {own} on their own data and {without} "
            f"without it (means of {len(cells)} cells, n = {n} seeds each); the shortcut alone reaches "
            f"{by_shortcut[task]:.3f}. Models of varied data are more accurate there in {more} of {len(cells)} cells."
        )
    return "\n".join(lines)


def _range(rows: list[dict[str, Any]]) -> str:
    least, most = (pick(rows, key=lambda row: row["accuracy"]) for pick in (min, max))
    return f"{_cell(least)} to {_cell(most)}"


def _cell(row: Mapping[str, Any], name: str = "accuracy") -> str:
    return f"{row[name]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _same(runs: pd.DataFrame, longer: pd.DataFrame) -> pd.DataFrame:
    """Return the models of the grid that were also trained for longer."""
    first = longer.iloc[0]
    chosen: Any = runs[
        (runs["task"] == first["task"]) & (runs["layers"] == first["layers"]) & (runs["data"] == first["data"])
    ]
    return chosen


def too_short(runs: pd.DataFrame, longer: pd.DataFrame) -> str:
    """Return how much accuracy more steps add, by number of heads."""
    before = _same(runs, longer).set_index(["heads", "seed"])["accuracy, without shortcut"]
    after = longer.set_index(["heads", "seed"])["accuracy, without shortcut"]
    gains = []
    for heads, size in dict.fromkeys(zip(longer["heads"], longer["head size"], strict=True)):
        gain = (after - before).loc[heads].to_numpy(float)
        gains.append(f"{heads} heads of size {size} {sentence(gain, 'seeds', '.2f', DIFFERENCE)}")
    first = longer.iloc[0]
    factor = first["steps"] / runs["steps"].iloc[0]
    return (
        f"With {factor:.0f} times the steps, models of {first['layers']} layers on {first['task']} gain in accuracy: "
        f"{'; '.join(gains)}."
    )


def longer_table(runs: pd.DataFrame, longer: pd.DataFrame) -> str:
    """Return the accuracy after the usual and the longer training as Markdown."""
    both = pd.concat([_same(runs, longer), longer])
    rows = [
        {
            **dict(zip((*CELL, "steps"), key, strict=True)),
            "accuracy": words(group["accuracy, without shortcut"], ".2f", SHARE),
            "n": marked_count(len(group)),
        }
        for key, group in groups(both, [*CELL, "steps"])
    ]
    return lab.markdown(pd.DataFrame(rows))


def accuracy_table(by_shortcut: Mapping[str, float], means: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return the accuracies of all cells as Markdown, a row a cell."""
    cells = means.set_index([*CELL, "data", "measured on"]).sort_index()
    rows = []
    for row in compared.to_dict("records"):
        key = tuple(row[name] for name in CELL)
        of = {(data, kind): _cell(cells.loc[(*key, data, kind)]) for data in ("varied", "shortcut") for kind in KINDS}
        rows.append(
            {
                **{name: row[name] for name in CELL},
                "varied data": of["varied", "without shortcut"],
                "shortcut data, on their own": of["shortcut", "own data"],
                "shortcut data, without shortcut": of["shortcut", "without shortcut"],
                "shortcut alone": f"{by_shortcut[row['task']]:.3f}",
                "varied − shortcut": _cell(row, "varied − shortcut"),
                "n": marked_count(row["n"]),
            }
        )
    return lab.markdown(pd.DataFrame(rows))
