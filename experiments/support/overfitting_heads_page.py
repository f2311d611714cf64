"""The page of `experiments.overfitting_heads`: tables and sentences from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh

from .. import lab
from .training_intervals import ANY, MARK, POSITIVE, beyond, groups, interval, sentence, words

LOSSES = ("training loss", "fresh loss", "gap")
EFFECTS = ("mean head, training", "mean head, fresh", "correlation")
CHOSEN = ("harmful head, choosing", "harmful head, fresh", "harmful head, training")
NEEDED = ("needed head, training", "needed head, fresh")
KEY = ["training set", "model"]


def within(name: str) -> tuple[float, float]:
    """Return the range of a number."""
    return (-1.0, 1.0) if name == "correlation" else POSITIVE if name.endswith("loss") else ANY


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each training set, model and number: its mean over seeds with the interval."""
    rows = []
    for key, group in groups(runs, KEY):
        for name in (*LOSSES, *EFFECTS, *CHOSEN, *NEEDED):
            row = {**dict(zip(KEY, key, strict=True)), "number": name}
            rows.append({**row, **lab.bounds("mean", interval(group[name].to_numpy(float), within(name)))})
    return pd.DataFrame(rows)


def shown(runs: pd.DataFrame, names: tuple[str, ...]) -> str:
    """Return a table for the page: a row a condition, numbers with their intervals over seeds."""
    rows = []
    for key, group in groups(runs, KEY):
        numbers = {name: words(group[name].to_numpy(float), within=within(name)) for name in names}
        rows.append({**dict(zip(KEY, key, strict=True)), **numbers, "n": len(group)})
    return lab.markdown(pd.DataFrame(rows))


def difference(runs: pd.DataFrame, name: str, first: tuple[str, str], second: tuple[str, str]) -> np.ndarray:
    """Return a number of the first kind of models less that of the second, seed by seed."""
    both: Any = [
        runs[(runs["training set"] == of[0]) & (runs["model"] == of[1])].set_index("seed")[name]
        for of in (first, second)
    ]
    return (both[0] - both[1]).dropna().to_numpy(float)


def findings(runs: pd.DataFrame) -> str:
    """Return the answer in sentences."""
    lines = []
    for key, group in groups(runs, KEY):
        if key[1] == "untrained" or key[0] == "many":
            continue
        harm = group["harmful head, fresh"].to_numpy(float)
        found = interval(harm, ANY)
        verdict = "such a head is shown" if found.high < 0 else "no such head is shown"
        gap = sentence(group["gap"].to_numpy(float), "seeds", unit="nats")
        training = words(group["harmful head, training"].to_numpy(float))
        lines.append(
            f"- {key[0]}, {key[1]}: the loss of fresh sentences is above that of the training set by {gap}. Removing "
            f"the head that was chosen as harmful changes the loss of other fresh sentences by {words(harm)}, and that "
            f"of the training set by {training}: {verdict}."
        )
    pairs = [("few, noisy", "few"), ("few, noisy", "many, noisy")]
    for one, other in pairs:
        values = difference(runs, "mean head, fresh", (one, "no decay"), (other, "no decay"))
        if len(values) > 1:
            lines.append(
                f"- A mean head of models of {one} less one of {other} (no decay), on fresh sentences: {words(values)}."
            )
    values = difference(runs, "gap", ("few, noisy", "decay"), ("few, noisy", "no decay"))
    if len(values) > 1:
        told = "decay narrows it" if interval(values, ANY).high < 0 else "no effect of decay on it is shown"
        told = "decay widens it" if beyond(interval(values, ANY)) and values.mean() > 0 else told
        lines.append(f"- The gap of few, noisy with decay less that without: {words(values)}: {told}.")
    return "\n".join(lines)


def page(runs: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    return f"""# Overfitting by head

{findings(runs)}

Decoders of 2 layers of 4 heads, width 64, {about["steps"]} steps of {about["batch"]} sentences, {about["seeds"]} seeds
of weights, data and fresh sentences. Few: {about["few"]} sentences; many: {about["many"]}. Noisy: {about["noise"]:g} of
them have a verb of a random number, so half of these are wrong. Decay: AdamW with a weight decay of
{about["decay"]:g}. Losses are of the verb alone, in nats; a predictor of no number has ln 2 = 0.69. Intervals: 95 %,
over seeds. {MARK}

## Losses

{shown(runs, LOSSES)}

## What a head is worth to each kind of sentence

Change of the loss when a head's output is replaced by its mean over {about["measured"]} other fresh sentences: above 0,
the head helps. Mean over heads; rank correlation, over the 8 heads of a model, of the effects on both kinds.

{shown(runs, EFFECTS)}

## Heads that harm fresh sentences

The head of each model whose removal lowers the loss of fresh sentences most, chosen on one half of them
(`choosing`), reported on the other.

{shown(runs, CHOSEN)}

## Heads that the training set needs most

Chosen on one half of the training sentences that are measured, reported on the other and on fresh ones.

{shown(runs, NEEDED)}

## Limits

One task with one scored word, one size of model, one rate; decay of one strength. A training set's halves are sentences
that the model has seen alike: the choice of the needed head is held out by sentence, not from the training. Removing a
head also takes from the later layers what they were trained with, so a loss need not say what the head computes.
"""


def results(runs: pd.DataFrame, about: Mapping[str, Any]) -> lab.Results:
    """Return everything that is written."""
    heads = runs.explode(["heads, training", "heads, fresh"])
    heads = heads.assign(head=heads.groupby([*KEY, "seed"]).cumcount())
    points = heads[[*KEY, "seed", "head", "heads, training", "heads, fresh"]]
    models = runs.drop(columns=["heads, training", "heads, fresh"])
    tables = {"runs": models, "heads": points, "over-seeds": over_seeds(runs)}
    return lab.Results(page(runs, about), about, tables, {"heads": picture(heads)})


def picture(heads: pd.DataFrame) -> "jh.plots.Picture":
    """Draw the effect of each head on the training set against that on fresh sentences, a panel a training set."""
    names = list(heads["training set"].unique())
    figure, row = jh.plots.panels(len(names), (3.0 * len(names), 3.2))
    for axes, name in zip(row, names, strict=True):
        own: Any = heads[heads["training set"] == name]
        for number, (model, group) in enumerate(groups(own, "model")):
            x, y = (group[f"heads, {kind}"].to_numpy(float) for kind in ("training", "fresh"))
            axes.scatter(x, y, s=8, color=jh.plots.color(number), alpha=0.6, label=model)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("training set: change of loss")
    row[0].set_ylabel("fresh sentences: change of loss")
    row[0].legend(fontsize=6)
    return figure
