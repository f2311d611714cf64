"""The page of `experiments.agreement_flow`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import (
    EQUAL,
    MARK,
    SHARE,
    beyond,
    groups,
    interval,
    sentence,
)

METHODS = ("raw", "rollout", "flow")
REFERENCES = ("blank-out", "gradients")
CORRELATION = (-1.0, 1.0)
CONTROLS = ("untrained", "random number")


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each condition, method and layer: means over seeds with intervals, and their number."""
    rows = []
    for (condition, method, layer), group in groups(runs, ["condition", "method", "layer"]):
        row: dict[str, Any] = {"condition": condition, "method": method, "layer": layer}
        for name in (*REFERENCES, "subject first"):
            values = group[name].to_numpy(float)
            if np.isnan(values).all():
                continue
            of = interval(values, SHARE if name == "subject first" else CORRELATION)
            row |= {name: float(of.mean), f"{name} low": float(of.low), f"{name} high": float(of.high)}
            row[f"{name} n"] = int(of.n)
        rows.append(row)
    return pd.DataFrame(rows)


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each reference and comparison: the difference seed by seed, with its interval.

    Methods and conditions are compared at the last layer. A difference is shown if its interval leaves 0 out.
    """
    last: Any = runs["layer"].max()

    def of(reference: str, condition: str, method: str, layer: int = last) -> np.ndarray:
        cell = (runs["condition"] == condition) & (runs["method"] == method) & (runs["layer"] == layer)
        chosen: Any = runs[cell]
        return chosen.sort_values("seed")[reference].to_numpy(float)

    rows = []
    for reference in REFERENCES:
        compared = {
            f"{first} − {second}": of(reference, "trained", first) - of(reference, "trained", second)
            for first, second in (("rollout", "raw"), ("flow", "raw"), ("rollout", "flow"))
        }
        for method in METHODS:
            at_last = of(reference, "trained", method)
            compared[f"{method}: layer {last} − layer 1"] = at_last - of(reference, "trained", method, 1)
            for control in CONTROLS:
                compared[f"{method}: trained − {control}"] = at_last - of(reference, control, method)
        for comparison, values in compared.items():
            measured = interval(values)
            row = {"reference": reference, "comparison": comparison, "difference": float(measured.mean)}
            row |= {"low": float(measured.low), "high": float(measured.high), "n": int(measured.n)}
            rows.append({**row, "shown": beyond(measured)})
    return pd.DataFrame(rows)


def page(
    about: Mapping[str, Any], runs: pd.DataFrame, right: pd.DataFrame, means: pd.DataFrame, compared: pd.DataFrame
) -> str:
    """Return the page for readers.

    Args:
        about: seeds, steps, batch, sentences, and the published correlations.
        runs: a row for each condition, seed, method and layer.
        right: the accuracy of each condition and seed.
        means: of `over_seeds`.
        compared: of `differences`.
    """
    trained: Any = runs[(runs["condition"] == "trained") & runs["method"].isin(METHODS)]
    sd = trained[[f"{name} sd" for name in REFERENCES]].to_numpy()
    accuracies = "; ".join(
        f"{condition} {sentence(group['accuracy'], 'seeds', '.2f', SHARE)}"
        for condition, group in groups(right, "condition")
    )
    by_layer = "\n\n".join(
        f"### {reference.capitalize()}\n\n{lab.markdown(layers(means, reference, about['published'][reference]))}"
        for reference in REFERENCES
    )
    return f"""# Rollout and flow on the agreement grammar

Models of {len(set(runs["layer"]))} layers with attention to both sides; {about["seeds"]} seeds, {about["steps"]}
training steps of {about["batch"]} sentences. Measured on {about["sentences"]} fresh sentences of each seed's own.
Intervals are of 95 %, over seeds with their own weights, training data and sentences. {MARK}
{EQUAL}

Accuracy on sentences that agree: {accuracies}.

## Findings

{findings(runs, means, compared)}

## Correlation by layer

Spearman's correlation within each sentence, then the mean over sentences and seeds (n = {marked_count(about["seeds"])}
seeds). In trained models its standard deviation over a seed's sentences is {sd.min():.2f} to {sd.max():.2f} (published:
0.2 to 0.5). In layer 1 the three methods rank alike by definition. Subject alone: a rating that is 1 for the subject
and 0 for all other words. The published numbers are of natural sentences, read at a CLS; ours are of the grammar's
sentences, read at the masked verb.

{by_layer}

## The last layer, and the controls

Subject first: the share of the sentences with an attractor in which the subject is more relevant than any attractor.
By chance it is {runs["subject first by chance"].mean():.2f}, the mean of 1 / the number of nouns.

{lab.markdown(last_layer(means))}

## Differences, seed by seed

At the last layer. {len(compared)} intervals, without a correction for their number: if no difference were real,
{0.05 * len(compared):.1f} of them would be expected to leave 0 out.

{lab.markdown(difference_table(compared))}

## Limits

One grammar, one architecture, one length of training. On average {runs["with attractors"].mean():.0f} of a seed's
{about["sentences"]} sentences have an attractor. A correlation within a sentence of few words is coarse. Blank-out of a
word that the answer does not rest on is close to 0, so the order of these words is noise in the reference itself; the
rating "subject alone" shows how far a correlation can rise then.
"""


def findings(runs: pd.DataFrame, means: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return the findings as a list, with numbers of this run."""
    lines = []
    for reference in REFERENCES:
        chosen: Any = compared[compared["reference"] == reference]
        rows = {row["comparison"]: row for row in chosen.to_dict("records")}
        methods = "; ".join(_worded(rows[name]) for name in rows if ":" not in name)
        rises = "; ".join(_worded(rows[name]) for name in rows if "layer" in name)
        controls = [rows[name] for name in rows if "trained −" in name]
        shown = sum(bool(row["shown"]) for row in controls)
        lines.append(f"- {reference.capitalize()}, methods at the last layer: {methods}.")
        lines.append(f"- {reference.capitalize()}, with depth: {rises}.")
        lines.append(
            f"- {reference.capitalize()}: trained models differ from a control in {shown} of {len(controls)} cases."
        )
    return "\n".join([*lines, f"- {_controls(runs, means)}"])


def _worded(row: Mapping[str, Any]) -> str:
    shown = "" if row["shown"] else ", not shown"
    return f"{row['comparison']} {row['difference']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{shown}"


def _controls(runs: pd.DataFrame, means: pd.DataFrame) -> str:
    """Return which control's mean correlations at the last layer leave 0 out."""
    last = runs["layer"].max()
    at_last: Any = means[(means["layer"] == last) & means["condition"].isin(CONTROLS) & means["method"].isin(METHODS)]
    off, count = [], 0
    for row in at_last.to_dict("records"):
        for reference in REFERENCES:
            count += 1
            low, high = row[f"{reference} low"], row[f"{reference} high"]
            if low > 0 or high < 0:
                value = f"{row[reference]:.2f} [{low:.2f}, {high:.2f}]"
                off.append(f"{row['condition']}, {row['method']} with {reference} {value}")
    which = "; ".join(off) or "none"
    return f"Controls at the last layer whose interval leaves 0 out, of {count}: {which}."


def layers(means: pd.DataFrame, reference: str, published: Mapping[str, Any]) -> pd.DataFrame:
    """Return the trained models' correlations, a column a layer, ours above the published ones."""
    rows = []
    trained: Any = means[means["condition"] == "trained"]
    for method, group in groups(trained, "method"):
        ours = {f"L{row['layer']}": _cell(row, reference) for row in group.to_dict("records")}
        rows.append({"method": method, "whose": "ours", **ours})
        if method in published:
            theirs = {f"L{layer}": f"{value:.2f}" for layer, value in enumerate(published[method][: len(group)], 1)}
            rows.append({"method": method, "whose": "published [P]", **theirs})
    return pd.DataFrame(rows)


def last_layer(means: pd.DataFrame) -> pd.DataFrame:
    """Return each condition's and method's means at the last layer."""
    chosen: Any = means[means["layer"] == means["layer"].max()]
    return pd.DataFrame(
        [
            {"condition": row["condition"], "method": row["method"]}
            | {name: _cell(row, name) for name in (*REFERENCES, "subject first")}
            | {"n": marked_count(row[f"{REFERENCES[0]} n"])}
            for row in chosen.to_dict("records")
        ]
    )


def difference_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Return the differences as words."""
    return pd.DataFrame(
        [
            {
                "reference": row["reference"],
                "comparison": row["comparison"],
                "difference": f"{row['difference']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                "n": marked_count(row["n"]),
                "leaves 0 out": "yes" if row["shown"] else "no",
            }
            for row in compared.to_dict("records")
        ]
    )


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row or np.isnan(row[name]):
        return ""
    if np.isnan(row[f"{name} low"]):
        return f"{row[name]:.2f}"
    return f"{row[name]:.2f} [{row[f'{name} low']:.2f}, {row[f'{name} high']:.2f}]"
