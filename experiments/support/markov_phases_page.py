"""The page of `experiments.markov_phases`: sentences and tables from the numbers of a run."""

from itertools import pairwise
from typing import Any

import pandas as pd

from jaxheads.tables import marked_count

from .training_intervals import MARK, POSITIVE, beyond, groups, interval, sentence, words

PUBLISHED_BATCH = 64
"""Chains of a published batch [P]."""

NEAR = 0.02
"""Nats from the Bayes predictor within which training was expected to end."""


def page(training: dict[str, int], runs: pd.DataFrame, means: pd.DataFrame, published: pd.DataFrame) -> str:
    """Return the page for readers.

    Args:
        training: width, seeds, steps, batch, and the number of chains evaluated.
        runs: a row for each condition and seed.
        means: a row for each condition and number, with intervals.
        published: losses beside the published ones.
    """
    seeds, evaluated = training["seeds"], training["evaluated"]
    return f"""# How statistical induction forms

Attention-only models of one head a layer, width {training["width"]}, two layers unless the condition says one; {seeds}
seeds, {training["steps"]} steps of {training["batch"]} chains of 100 states. Everything is reported on {evaluated}
fresh chains, the same for all seeds of a condition. KL: KL(predictor ‖ model), nats per position. Bayes: the Bayes
predictor's loss on those chains. Every interval is of 95 %. One over seeds holds for these chains, one over chains for
these seeds. {MARK}

## Findings

{findings(runs, means)}

## When

Means over seeds with intervals over seeds. The step nearest the unigram, and the step from which the bigram stays
nearer, are read off {evaluated} other chains. An event lies between its checkpoint and the one before; the spacing is
that distance, the largest of the seeds.

{when(runs).to_markdown(index=False, disable_numparse=True)}

## How near

{how_near(means).to_markdown(index=False, disable_numparse=True)}

The doubly stochastic chains' Bayes predictor knows that they are doubly stochastic. On the other chains it is Laplace's
rule, the bigram. That rule leaves out that chains start in their stationary law, so its loss is a little above the
least possible. The loss − Bayes is a difference on the states that were drawn, the KL from Bayes an expectation under
the predictor's law. Doubly stochastic chains visit all states equally, so their unigram is close to uniform: their
steps tell when the bigram is nearer than a constant.

## Beside the published losses, K = 2

A published loss is that of one batch of {PUBLISHED_BATCH} other chains, with dropout 0.1 and learnt relative positions.
Ours is of {evaluated} chains, without dropout and with rotary positions, the mean over {marked_count(seeds)} seeds. The
interval of the difference allows for one new seed and one new batch, with the spread of our seeds
(n = {marked_count(seeds)}) and of our chains (n = {marked_count(evaluated)}).

{published.astype({"step": str}).to_markdown(index=False, floatfmt=".3f") if len(published) else "No step reached."}

{against_published(published)}
"""


def findings(runs: pd.DataFrame, means: pd.DataFrame) -> str:
    """Return the findings as a list, with numbers of this run."""
    lines = []
    for condition, group in groups(runs, "condition"):
        chosen: Any = means[(means["condition"] == condition) & (means["number"] == "loss − Bayes")]
        [excess] = chosen.to_dict("records")
        low, high = min(excess["seeds low"], excess["chains low"]), max(excess["seeds high"], excess["chains high"])
        near = "within" if high < NEAR else "not within" if low > NEAR else "not shown to be within"
        farther = int((group["KL from unigram at the end"] > group["KL from bigram at the end"]).sum())
        rises = int((group["KL from unigram at the end"] > group["KL from unigram when nearest"]).sum())
        lines.append(
            f"- {condition}: ends {excess['mean']:.4f} nats above the Bayes predictor on the same chains "
            f"([{excess['seeds low']:.4f}, {excess['seeds high']:.4f}] over {marked_count(excess['seeds'])} seeds, "
            f"[{excess['chains low']:.4f}, {excess['chains high']:.4f}] over {marked_count(excess['chains'])} chains), "
            f"{near} {NEAR}. It ends nearer the bigram than the unigram in {farther} of {marked_count(len(group))} "
            f"seeds; the divergence from the unigram, once nearest, has risen in {rises}."
        )
    return "\n".join([*lines, *(f"- {line}" for line in comparisons(runs))])


def comparisons(runs: pd.DataFrame) -> list[str]:
    """Return how much later the bigram is nearer: from one K to the next, and with the control in place of its K."""
    came = {name: group for name, group in groups(runs, "condition") if group["nearer bigram from"].notna().all()}
    lines = []
    plain = [name for name in came if "," not in name]
    controls = [(name.split(",")[0], name) for name in came if "stochastic" in name]
    for first, second in (*pairwise(plain), *(pair for pair in controls if pair[0] in came)):
        at_first, at_second = (came[name]["nearer bigram from"].to_numpy(float) for name in (first, second))
        later, spacing = at_second - at_first, max(float(came[name]["spacing then"].max()) for name in (first, second))
        verdict = "later" if later.mean() > 0 else "sooner"
        shown = verdict if beyond(interval(later), spacing) else "not shown to be sooner or later"
        lines.append(
            f"The bigram is nearer from a step that differs by {sentence(later, 'seeds', '.0f', unit='steps')} from "
            f"{first} to {second}, at a spacing of {spacing:.0f}: {shown}."
        )
    return lines


def when(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the steps of each condition."""
    rows = []
    for condition, group in groups(runs, "condition"):
        row = {"condition": condition}
        for event, spacing in (("nearest unigram at", "spacing there"), ("nearer bigram from", "spacing then")):
            known = group[group[event].notna()]
            row[event] = words(group[event].to_numpy(float), ".0f", POSITIVE) if len(known) else "never"
            row[spacing] = f"{known[spacing].max():.0f}" if len(known) else ""
            row[f"seeds{' that do' if 'bigram' in event else ''}"] = f"{len(known)} of {marked_count(len(group))}"
        rows.append(row)
    return pd.DataFrame(rows)


def how_near(means: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the reported numbers with both intervals."""

    def bounds(row: Any, what: str) -> str:
        return f"[{row[f'{what} low']:.4f}, {row[f'{what} high']:.4f}]" if row[what] > 1 else ""

    rows = [
        {
            "condition": row["condition"],
            "number": row["number"],
            "mean": f"{row['mean']:.4f}",
            "over seeds": bounds(row, "seeds") if row["number"] != "loss of Bayes" else "",
            "seeds": marked_count(row["seeds"]) if row["number"] != "loss of Bayes" else "",
            "over chains": bounds(row, "chains"),
            "chains": marked_count(row["chains"]),
        }
        for row in means.to_dict("records")
    ]
    return pd.DataFrame(rows)


def against_published(published: pd.DataFrame) -> str:
    """Return at which steps ours differs from the published loss."""
    if published.empty:
        return ""
    rows = published.to_dict("records")
    differs = ", ".join(f"{row['step']:.0f}" for row in rows if row["high"] < 0 or row["low"] > 0) or "none"
    return f"The interval leaves 0 out at these of the {len(published)} steps: {differs}. A single batch tells no more."
