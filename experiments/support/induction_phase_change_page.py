"""The page of `experiments.induction_phase_change`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import (
    EQUAL,
    MARK,
    POSITIVE,
    SHARE,
    groups,
    interval,
    sentence,
    words,
)

RANGES = {
    "accuracy": SHARE,
    "previous_token": SHARE,
    "induction": SHARE,
    "copying": (-1.0, 1.0),
    "its rank": (1.0, np.inf),
}
"""Ranges of numbers that are not from 0 up."""

NUMBERS = (
    "loss",
    "accuracy",
    "previous_token",
    "previous_token untrained",
    "induction",
    "induction untrained",
    "without previous_token head",
    "without all previous_token heads",
    "such previous_token heads",
    "without induction head",
    "without all induction heads",
    "such induction heads",
    "K-composition",
    "random",
    "its rank",
    "copying",
)


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each condition and number: mean over seeds, interval, and number of seeds that have it."""
    rows = []
    for condition, group in groups(runs, "condition"):
        for name in NUMBERS:
            values = group[name].to_numpy(float) if name in group else np.array([np.nan])
            if np.isfinite(values).any():
                of = interval(values, RANGES.get(name.removesuffix(" untrained"), POSITIVE))
                numbers = {"mean": float(of.mean), "low": float(of.low), "high": float(of.high), "n": int(of.n)}
                rows.append({"condition": condition, "number": name, **numbers})
    return pd.DataFrame(rows)


def orders(onsets: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return a row for each pair of onsets: how much later the second comes in two layers, seed by seed.

    An order is shown where the whole interval of the difference is further from 0 than the resolution, which is the
    larger of the spacing of checkpoints there and of the change with other examples.
    """
    chosen: Any = onsets[onsets["condition"] == "two layers"]
    rows = []
    for first, second in pairs:
        later = (chosen[second] - chosen[first]).to_numpy(float)
        if np.isnan(later).all():
            continue
        of = interval(later)
        limits = [f"{name} {limit}" for name in (first, second) for limit in ("spacing", "examples")]
        resolution = float(chosen[limits].max(axis=None))
        shown = first if of.low > resolution else second if of.high < -resolution else "not shown"
        row = {"first": first, "second": second, "later by": float(of.mean), "low": float(of.low)}
        row |= {"high": float(of.high), "n": int(of.n), "resolution": resolution}
        row |= {"earlier": int((later > resolution).sum()), "later": int((later < -resolution).sum())}
        rows.append({**row, "comes first": shown})
    columns = ("first", "second", "later by", "low", "high", "n", "resolution", "earlier", "later", "comes first")
    return pd.DataFrame(rows, columns=list(columns))


def page(
    training: Mapping[str, Any],
    anchors: Mapping[str, float],
    similar: float,
    runs: pd.DataFrame,
    means: pd.DataFrame,
    onsets: pd.DataFrame,
    order: pd.DataFrame,
) -> str:
    """Return the page for readers."""
    seeds, evaluated = training["seeds"], training["evaluated"]
    return f"""# How an induction head forms

Attention-only models of 4 heads a layer, width 64; {seeds} seeds, {training["steps"]} steps of {training["batch"]}
examples (AdamW, {training["rate"]:g}). Heads are chosen on {evaluated} fresh segments of random length, and all numbers
are of {evaluated} others, the same for all models. Loss: nats per determined token. A model that knows nothing has
{anchors["uniform"]:.3f}, a model that knows which tokens the segment has {anchors["seen"]:.3f}, the best model 0.
Intervals are of 95 % over seeds, for these segments. {MARK}
{EQUAL}

{claims(runs, anchors)}

## Onsets

An onset is the step at which a curve has covered that share of the way from its first to its best value. The curve of a
skill is the score of the head that is then the best on the choosing segments. Spacing: the largest distance between the
checkpoints about an onset. Other segments: the largest change of a seed's onset if the two sets of segments change
roles. Conditions without an onset are left out.

{onset_table(onsets)}

Orders in two layers, seed by seed; {len(order)} were asked for, without a correction. "Later by" is positive if the
second comes later. An order is shown only where the whole interval is further from 0 than the resolution, the larger of
spacing and change with other segments. The last counts are of seeds whose difference exceeds the resolution.

{order_table(order)}

## All numbers

Heads of a skill have at least {similar:.0%} of the best head's score. Rank: of the pair's K-composition among all pairs
of heads, 1 is the largest. Random: the K-composition of random weights. Losses without heads set their outputs to zero.
Single seeds are in `runs.csv`.

{number_table(means)}
"""


def claims(runs: pd.DataFrame, anchors: Mapping[str, float]) -> str:
    """Return the table of the published claims beside the numbers of this run."""

    def of(condition: str, column: str, form: str = ".3f") -> str:
        values = runs.loc[runs["condition"] == condition, column].to_numpy(float)
        return sentence(values, "seeds", form, RANGES.get(column.removesuffix(" untrained"), POSITIVE))

    two_layers: Any = runs[runs["condition"] == "two layers"]
    ranks = two_layers["its rank"].dropna().to_numpy(float) if "its rank" in runs else np.empty(0)
    top = sentence(ranks == 1, "seeds", ".2f", SHARE) if len(ranks) else "no such pair"
    one, two = (
        f"loss {of(layers, 'loss')}; best head's induction score {of(layers, 'induction')}, before training "
        f"{of(layers, 'induction untrained')}"
        for layers in ("one layer", "two layers")
    )
    single, together = (
        "; ".join(
            f"{skill.replace('_', ' ')} {of('two layers', f'without {which}{skill} head{plural}')}"
            for skill in ("previous_token", "induction")
        )
        for which, plural in (("", ""), ("all ", "s"))
    )
    rows = [
        ("one layer never forms induction", "Olsson et al. 2022 [S]", one),
        ("two layers do", "Olsson et al. 2022 [S]", two),
        ("previous-token head first", "Elhage et al. 2021 [S]", "see the orders below"),
        ("that pair composes most through keys", "Elhage et al. 2021 [S]", f"share of seeds {top}"),
        (f"without either head the loss is back at ln S, {anchors['seen']:.3f}", "(our expectation)", single),
        ("without all heads of the skill", "(our expectation)", together),
        ("one length in training is a shortcut", "(our control)", of("two layers, one length", "loss")),
    ]
    return pd.DataFrame(rows, columns=["claim", "published", "here"]).to_markdown(index=False)


def onset_table(onsets: pd.DataFrame) -> str:
    """Return the onsets as Markdown: means over seeds, spacing, and the change with other segments."""
    names = [name.removesuffix(" spacing") for name in onsets if str(name).endswith(" spacing")]
    rows = [
        {
            "condition": condition,
            "onset": name,
            "step": words(group[name].to_numpy(float), ".1f", POSITIVE),
            "n": marked_count(group[name].notna().sum()),
            "spacing": f"{group[f'{name} spacing'].max():.0f}",
            "other segments": f"{group[f'{name} examples'].max():.1f}",
        }
        for condition, group in groups(onsets, "condition")
        for name in names
        if group[name].notna().any()
    ]
    return lab.markdown(pd.DataFrame(rows)) if rows else "No curve has an onset."


def order_table(order: pd.DataFrame) -> str:
    """Return the orders as Markdown."""
    rows = [
        {
            "first": row["first"],
            "second": row["second"],
            "later by": f"{row['later by']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
            "n": marked_count(row["n"]),
            "resolution": f"{row['resolution']:.1f}",
            "first is earlier in": row["earlier"],
            "later in": row["later"],
            "comes first": row["comes first"],
        }
        for row in order.to_dict("records")
    ]
    return lab.markdown(pd.DataFrame(rows)) if rows else "No pair of onsets came in any seed."


def number_table(means: pd.DataFrame) -> str:
    """Return all numbers as Markdown, a row for each number and a column for each condition."""

    def cell(row: Any) -> str:
        of = f"[{row['low']:.3f}, {row['high']:.3f}]" if np.isfinite(row["low"]) else "no interval"
        return f"{row['mean']:.3f} {of}, n = {marked_count(row['n'])}"

    cells: dict[str, dict[str, str]] = {}
    for row in means.to_dict("records"):
        cells.setdefault(row["number"], {})[row["condition"]] = cell(row)
    conditions = list(dict.fromkeys(means["condition"]))
    rows = [
        {"number": name, **{condition: of.get(condition, "") for condition in conditions}} for name, of in cells.items()
    ]
    return pd.DataFrame(rows).to_markdown(index=False)
