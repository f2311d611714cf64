"""The page of `experiments.function_vectors`: tables and sentences from the numbers of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.report import model_title
from jaxheads.statistics import mean_interval, rank_correlation
from jaxheads.tables import marked_count

from .. import lab
from .training_intervals import groups

SHOWN = ("effect_when_choosing", "effect", "effect_low", "effect_high")

RANDOM = "random heads"
"""Name of what is added by heads that nothing chose."""

KINDS = ("function-vector heads", "induction heads")
"""Names of the sets of both kinds of heads."""

Heads = list[tuple[int, int]]


@dataclass(frozen=True)
class Findings:
    """Everything that a run measured.

    Attributes:
        table: a row for each head.
        vectors, inductive: the chosen heads of both kinds.
        scores: induction scores on the half that did not choose, `[L,N]`.
        chance: effects in the model of random weights, `[E,L,N]`.
        sets: the sets of heads that were removed.
        before, changes: log-probabilities of the answers, `[E]`, and their changes, `[E,S]`.
        labels: each example's task, `[E]`.
        steered: a row for each prompt and vector.
    """

    table: jh.HeadTable
    vectors: Heads
    inductive: Heads
    scores: np.ndarray
    chance: np.ndarray
    sets: Mapping[str, Heads]
    before: np.ndarray
    changes: np.ndarray
    labels: np.ndarray
    tasks: tuple[str, ...]
    steered: pd.DataFrame


def words(values: np.ndarray, labels: np.ndarray, form: str = ".2f", most: float = np.inf) -> str:
    """Return a mean with its interval over tasks, within ± `most`: "0.43 [0.30, 0.57]"."""
    mean, low, high, _ = mean_interval(values, clusters=labels, within=(-most, most))
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def of_random(found: Findings) -> np.ndarray:
    """Return the mean change over the random sets, `[E]`."""
    return found.changes[:, [index for index, name in enumerate(found.sets) if name.startswith("random")]].mean(axis=1)


def removal(found: Findings) -> pd.DataFrame:
    """Return a row for each set of heads: what its removal changes, and that beyond random heads."""
    rows = []
    for index, (name, heads) in enumerate(found.sets.items()):
        if name.startswith("random"):
            continue
        change, beyond = found.changes[:, index], found.changes[:, index] - of_random(found)
        rows.append(
            {
                "removed": name,
                "heads": len(heads),
                **lab.bounds("change", mean_interval(change, clusters=found.labels, within=(-np.inf, np.inf))),
                **lab.bounds("beyond random", mean_interval(beyond, clusters=found.labels, within=(-np.inf, np.inf))),
            }
        )
    both = of_random(found)
    row = {"removed": RANDOM, "heads": len(found.vectors)}
    rows.append({**row, **lab.bounds("change", mean_interval(both, clusters=found.labels, within=(-np.inf, np.inf)))})
    return pd.DataFrame(rows).drop(columns="beyond random_n")


def chosen(found: Findings) -> pd.DataFrame:
    """Return a row for each chosen head: effects on both halves, its rank among induction heads."""
    frame = found.table.frame.reset_index().set_index(["layer", "head"])
    ranks = pd.Series(-found.scores.reshape(-1)).rank(method="first").to_numpy().reshape(found.scores.shape)
    rows = []
    for kind, heads in (("function vector", found.vectors), ("induction", found.inductive)):
        for layer, head in heads:
            row: Any = frame.loc[(layer, head)]
            numbers = {
                name: float(row[name]) for name in ("effect_when_choosing", "effect", "effect_low", "effect_high")
            }
            shuffled = float(row["effect_of_shuffled"])
            own = {"kind": kind, "head": f"{layer}.{head}", **numbers, "effect of shuffled means": shuffled}
            own |= {"induction": found.scores[layer, head], "rank of induction": int(ranks[layer, head])}
            rows.append({**own, "both": (layer, head) in found.vectors and (layer, head) in found.inductive})
    return pd.DataFrame(rows)


def gain(found: Findings, kind: str, over: str) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much one kind of prompt raises the log-probability over another, `[E]`, and each one's task."""
    first: Any = found.steered[found.steered["with"] == kind]
    second: Any = found.steered[found.steered["with"] == over]
    labels = first["task"].astype("category").cat.codes.to_numpy()
    return first["log p"].to_numpy() - second["log p"].to_numpy(), labels


def vector_table(found: Findings) -> pd.DataFrame:
    """Return a row for each kind of prompt: how often the answer comes first, and its log-probability."""
    rows = []
    for kind, group in groups(found.steered, "with"):
        labels = group["task"].astype("category").cat.codes.to_numpy()
        right = mean_interval(group["right"].to_numpy(), clusters=labels, within=(0, 1))
        row = {"prompt": kind, **lab.bounds("right", right), "log p": float(group["log p"].mean())}
        for name, over in (("gain in log p over bare", "bare"), ("over random", RANDOM)):
            row[name] = "–" if kind in ("bare", over) else words(*gain(found, kind, over))
        rows.append(row)
    return pd.DataFrame(rows)


def by_task(found: Findings) -> pd.DataFrame:
    """Return a row for each task: accuracy and what each removal changes."""
    frame = pd.DataFrame(found.changes, columns=list(found.sets)).assign(task=np.array(found.tasks)[found.labels])
    randoms = [name for name in found.sets if name.startswith("random")]
    frame["random heads"] = frame[randoms].mean(axis=1)
    means: Any = frame.drop(columns=randoms).groupby("task", sort=False).mean()
    clean: Any = found.steered[found.steered["with"] == "examples"]
    return means.assign(**{"right with examples": clean.groupby("task", sort=False)["right"].mean()})


def results(found: Findings, about: Mapping[str, Any]) -> lab.Results:
    """Return everything that is written."""
    tables = {"chosen": chosen(found), "removal": removal(found), "vectors": vector_table(found)}
    figure, [left, right] = jh.plots.panels(2, (10, 6))
    found.table.plot("effect", left)
    found.table.plot("induction", right)
    return lab.Results(
        page(found, tables, about),
        about,
        {**tables, "tasks": by_task(found)},
        {"heads": figure},
        heads={"heads": found.table},
    )


def shared(first: Heads, second: Heads, count: int) -> int:
    """Return how many of their first `count` heads two lists share."""
    return len({*first[:count]} & {*second[:count]})


def beyond_random(found: Findings) -> str:
    """Return in sentences what removing and adding each kind of heads does beyond random heads of the same layers."""
    names, count = list(found.sets), marked_count(float(len(found.tasks)))
    lines = []
    for kind in KINDS:
        change = found.changes[:, names.index(kind)]
        beyond = told(change - of_random(found), found.labels)
        lines.append(
            f"- Removing the {len(found.sets[kind])} {kind} changes the log-probability of the answer by "
            f"{words(change, found.labels)} nats, beyond random heads by {beyond}. "
            f"Adding what they write to a bare question changes it by {words(*gain(found, kind, 'bare'))}, beyond what "
            f"random heads write by {told(*gain(found, kind, RANDOM))}."
        )
    alone = (
        f"Random heads alone: {words(of_random(found), found.labels)} removed, {words(*gain(found, RANDOM, 'bare'))}"
    )
    return "\n".join([*lines, f"- {alone} added (n = {count} tasks)."])


def told(values: np.ndarray, labels: np.ndarray) -> str:
    """Return a mean with its interval over tasks, and whether that leaves out 0."""
    interval = mean_interval(values, clusters=labels, within=(-np.inf, np.inf))
    return f"{words(values, labels)} ({'shown' if interval.low > 0 or interval.high < 0 else 'not shown'})"


def page(found: Findings, tables: Mapping[str, pd.DataFrame], about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    heads, top = found.scores.size, len(found.vectors)
    two = max(1, round(0.02 * heads))
    effects = np.asarray(found.table.grid("effect"))
    both, few = shared(found.vectors, found.inductive, top), shared(found.vectors, found.inductive, two)
    correlation = rank_correlation(effects.reshape(-1), found.scores.reshape(-1))
    correlated = "undefined" if correlation is None else f"{correlation:.2f}"
    names = list(found.sets)
    vector, induction = (found.changes[:, names.index(own)] for own in KINDS)
    tops = np.stack([np.asarray(found.table.per_example)[0][:, layer, head] for layer, head in found.vectors], 1)
    wrong = np.stack([np.asarray(found.table.per_example)[2][:, layer, head] for layer, head in found.vectors], 1)
    first, count = found.vectors[0], marked_count(float(len(found.tasks)))
    of_chance = found.chance.mean(axis=0)
    return f"""# Function vectors and induction heads: {model_title(about["model"])}

{beyond_random(found)}

Of the {top} heads of each kind {both} are both (chance: {top * top / heads:.2f} of {heads} heads); of the first
{two} (2 %) {few} (chance: {two * two / heads:.2f}; Yin & Steinhardt 2025 found about 7 % shared in 12 models [S]).
Rank correlation of effect and induction score over all heads: {correlated}. Removing function-vector heads less
removing induction heads: {words(vector - induction, found.labels)} nats (n = {count} tasks).

{about["prompts"]} prompts of {about["shots"]} examples for each of {len(found.tasks)} tasks choose heads, as many of
other pairs report everything below. Intervals: 95 %, over tasks; they do not hold for one task alone. The first
function-vector head by choice, {first[0]}.{first[1]}, has an effect of {words(tops[:, 0], found.labels, ".3f", 1.0)} on
probability; Todd et al.'s in GPT-J (15.5) 0.0587, over other tasks, prompts of 10 examples and another model [S].

## Chosen heads

Effect: the rise of the answer's probability in prompts of shuffled labels, when the head's output at the last token is
its mean over the task's right prompts. `effect_when_choosing` is of the prompts that chose; all else of others. The
control puts in the mean over prompts of shuffled labels: the {top} heads have on average
{words(tops.mean(1), found.labels, ".3f", 1.0)} with right labels and
{words(wrong.mean(1), found.labels, ".3f", 1.0)} with shuffled ones, a difference of
{words((tops - wrong).mean(1), found.labels, ".3f", 1.0)}.
In the same model with random weights the largest mean effect of {heads} heads is {of_chance.max():.1e}. `induction`:
attention to the token after the earlier copy, in repeats that did not choose.

{lab.markdown(tables["chosen"])}

## Removal

Change of the log-probability of the whole answer in prompts of right labels, when heads are replaced by their means
over all positions of the task's choosing prompts. Before: {found.before.mean():.2f} nats.

{lab.markdown(tables["removal"])}

By task, with the share of prompts whose answer's first token comes first:

{lab.markdown(by_task(found).reset_index())}

## Vectors added to bare questions

The sum of what the chosen heads write (means over the choosing prompts) is added at the last token after a third of the
layers. `right`: the answer's first token comes first.

{lab.markdown(tables["vectors"])}

## Limits

One small model in 4 bits, few prompts a task; in some tasks it is seldom right (table by task). Tasks are not drawn at
random, so the intervals describe these and no others. Heads were chosen for their mean over all tasks, as in the paper:
a head of one task alone is missed. Induction scores come from repeated random tokens, not from the prompts.
"""
