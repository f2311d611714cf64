"""The page of `experiments.fine_tuning`: tables and sentences from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.report import model_title

from .. import lab
from .training_intervals import ANY, MARK, SHARE, beyond, groups, interval, sentence, words

MOVES = ("1 − cosine", "divergence")
CORRELATIONS = ("effects before and after", "movement and change of effect")


def by_layer(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each condition and layer: how far its heads moved, mean over heads, interval over seeds."""
    rows = []
    for condition, group in groups(runs, "condition"):
        values = {name: np.array(group[f"{name}, by layer"].tolist()) for name in MOVES}
        for layer in range(values[MOVES[0]].shape[1]):
            numbers = {name: words(own[:, layer], ".3f", SHARE) for name, own in values.items()}
            rows.append({"condition": condition, "layer": layer, **numbers, "n": len(group)})
    return pd.DataFrame(rows)


def heads_table(runs: pd.DataFrame, heads: int) -> pd.DataFrame:
    """Return a row for each condition, seed and head."""
    rows = []
    for row in runs.to_dict("records"):
        for number, values in enumerate(zip(*(row[f"{name}, heads"] for name in MOVES), strict=True)):
            where = {"layer": number // heads, "head": number % heads}
            rows.append(
                {"condition": row["condition"], "seed": row["seed"], **where, **dict(zip(MOVES, values, strict=True))}
            )
    return pd.DataFrame(rows)


def last_less_first(runs: pd.DataFrame, condition: str, name: str = MOVES[0]) -> np.ndarray:
    """Return how much further the upper half of the layers moved than the lower half, seed by seed."""
    chosen = runs[runs["condition"] == condition]
    values = np.array(chosen[f"{name}, by layer"].tolist())
    half = values.shape[1] // 2
    return values[:, half:].mean(axis=1) - values[:, :half].mean(axis=1)


def accuracy_of(group: pd.DataFrame) -> str:
    """Return the accuracy in words, with its interval over sentences; of each, the mean over seeds counts."""
    return sentence(np.mean(group["right"].tolist(), axis=0), "held-out sentences", within=SHARE)


def learnt(runs: pd.DataFrame) -> str:
    """Return in words whether the model learnt anything: right labels beside shuffled ones, by sentence."""
    tuned, shuffled, random = (
        np.mean(runs[runs["condition"] == name]["right"].tolist(), axis=0)
        for name in ("fine-tuned", "shuffled labels", "from random weights")
    )
    told = "it learns the task" if interval(tuned - shuffled, ANY).low > 0 else "it is not shown to learn the task"
    return (
        f"- The model rates {words(tuned, within=SHARE)} of {len(tuned)} held-out sentences right after fine-tuning, "
        f"more than after training on shuffled labels by {words(tuned - shuffled)} and from random weights by "
        f"{words(tuned - random)}: {told}."
    )


def findings(runs: pd.DataFrame, heads: int) -> str:
    """Return the answer in sentences."""
    lines = [learnt(runs)]
    for condition, group in groups(runs, "condition"):
        accuracy = accuracy_of(group)
        upper = last_less_first(runs, condition)
        told = "the upper half moves further" if interval(upper, ANY).low > 0 else "no difference is shown"
        told = "the lower half moves further" if interval(upper, ANY).high < 0 else told
        by = words(group["1 − cosine"].to_numpy(float), ".3f", SHARE)
        at = [f"{int(head) // heads}.{int(head) % heads}" for head in group["1 − cosine, most at"]]
        lines.append(
            f"- {condition}: accuracy {group['accuracy before'].mean():.2f} before (a fresh head), {accuracy} after. "
            f"Patterns move by a 1 − cosine of {by}; upper half of the layers less lower half "
            f"{words(upper, '.3f')}: {told}. The head that moves most "
            f"({', '.join(at)}) moves by {words(group['1 − cosine, most'].to_numpy(float), '.3f', SHARE)}."
        )
    tuned, shuffled = (
        runs[runs["condition"] == name].set_index("seed")["1 − cosine"] for name in ("fine-tuned", "shuffled labels")
    )
    values = (tuned - shuffled).to_numpy(float)
    told = "labels that mean something move patterns otherwise" if beyond(interval(values, ANY)) else "none is shown"
    lines.append(f"- Movement with right labels less that with shuffled ones: {words(values, '.3f')}: {told}.")
    return "\n".join(lines)


def page(runs: pd.DataFrame, heads: int, about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    correlations = [
        {
            "condition": condition,
            **{name: words(group[name].to_numpy(float), within=(-1.0, 1.0)) for name in CORRELATIONS},
            "largest effect": words(group["largest effect"].to_numpy(float)),
            "effect of the head that moved most": words(group["effect of the head that moved most"].to_numpy(float)),
            "n": len(group),
        }
        for condition, group in groups(runs, "condition")
    ]
    return f"""# Fine-tuning by head: {model_title(about["model"])}

{findings(runs, heads)}

{about["seeds"]} seeds of {about["steps"]} steps of {about["batch"]} sentences, of {about["sentences"]} in all. Accuracy
is that on {about["held_out"]} sentences that no step used, {about["positive"]:.2f} of them positive; its intervals are
over these. Heads are compared on {about["compared"]} of them. A seed decides the order of the sentences; the sentences,
the model, its fresh head and the random weights are the same for all. So all other intervals (95 %, over seeds) hold
for this model and these sentences. {MARK}

Kovaleva et al. 2019 compare BERT's heads in the same way, and report that the last two layers change most [S]. Model,
task and objective differ here: this is no replication.

## Movement by layer

Mean over the heads of a layer: 1 − cosine of the patterns before and after, and the Jensen–Shannon divergence of their
rows, in nats (at most 0.69).

{lab.markdown(by_layer(runs))}

## Movement and effect

An effect is the change of the logit of the right class less that of the wrong one when a head's output is replaced by
its mean. Rank correlations over heads; the largest effect and the head that moved most are chosen on one half of the
sentences and reported on the other.

{lab.markdown(pd.DataFrame(correlations))}

## Limits

One small model, one task, one rate and number of steps: movement grows with both. A pattern may
move although nothing depends on it, and stay although what the head writes has changed; effects say which.
"""


def results(runs: pd.DataFrame, heads: int, about: Mapping[str, Any]) -> lab.Results:
    """Return everything that is written."""
    per_head = heads_table(runs, heads)
    plain = runs.drop(columns=[name for name in runs if str(name).endswith(("by layer", "heads", "right"))])
    tables = {"runs": plain, "heads": per_head, "layers": by_layer(runs)}
    return lab.Results(page(runs, heads, about), about, tables, {"movement": picture(per_head)})


def picture(heads: pd.DataFrame) -> "jh.plots.Picture":
    """Draw each head's movement by layer: a point a head and seed, a line through the means."""
    figure, [axes] = jh.plots.panels(1, (5, 3.5))
    for number, (condition, group) in enumerate(groups(heads, "condition")):
        lab.points_and_mean(axes, group, "layer", MOVES[0], color=jh.plots.color(number), label=condition)
    axes.set_xlabel("layer")
    axes.set_ylabel("1 − cosine of patterns before and after")
    axes.legend(fontsize=7)
    return figure
