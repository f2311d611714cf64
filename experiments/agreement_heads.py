"""Heads of agreement: which heads does a model's preference for the right sentence rest on, and in which phenomena?

    python -m experiments.agreement_heads --pairs PATH [--model NAME] [--each N] [--quick] [--out DIR]

On BLiMP (Warstadt et al. 2020, TACL): pairs of sentences of which one is right; a model is right where it gives that
one the larger log-probability (of a masked model, pseudo-log-likelihood). One half of the pairs of a paradigm chooses
heads, by the size of the derivative of log p(right) − log p(wrong) by their gates, which costs one backward pass for
all heads. The other half reports: what ablating each of the chosen heads (mean ablation) changes in that difference and
in the accuracy, beside heads of the same layers that were not chosen.

The pairs are files of https://github.com/alexwarstadt/blimp (CC BY 4.0): a file or a folder of them. Without, --quick
reads pairs of the package's own: they show that it works, and nothing else.

Cost on 2 cores: smollm2-135m, 32 pairs of each of 25 paradigms, 8 heads ablated: six
minutes of processor time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import MinimalPairs, Sentence, Sentences, pairs

from . import lab
from .support.relation_choice import span, spanned

LEAST_PARADIGMS = 4
"""Paradigms of a phenomenon from which on intervals are over paradigms, not pairs."""

ANY = (-np.inf, np.inf)


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        pairs: a file of BLiMP, or a folder of them.
        model: zoo name, hub id or directory.
        each: pairs of each paradigm, half of which choose.
        heads: heads that are ablated; beside each one of its layer that was not chosen.
        seed: of the pairs and the heads beside the chosen ones.
    """

    least: ClassVar = {"seed": 0, "each": 4, "heads": 1}
    out: Path = Path("results/agreement-heads")
    pairs: Path | None = None
    model: str = "smollm2-135m"
    each: int = 32
    heads: int = 4
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError without pairs, unless the run is quick."""
        super().check()
        if self.pairs is None and not self.quick:
            raise ValueError("--pairs: expected a file of BLiMP or a folder of them (--quick runs without)")


def own_pairs() -> MinimalPairs:
    """Return pairs of the package's own: "The teachers near the house are old ." and "… is old ."."""
    good, bad = [], []
    for number, noun in enumerate(("teacher", "dog", "letter", "doctor", "student", "king", "friend", "book")):
        for plural in (False, True):
            verbs, paradigm = ("is", "are")[:: -1 if plural else 1], ("near", "plain")[number % 2]
            words = ["The", noun + "s" * plural, *(["near", "the", "house"] if paradigm == "near" else [])]
            about = {"paradigm": paradigm, "phenomenon": "agreement"}
            for verb, kind in zip(verbs, (good, bad), strict=True):
                kind.append(Sentence((*words, verb, "old"), properties=about))
    return MinimalPairs(Sentences(tuple(good)), Sentences(tuple(bad)))


def read(options: Options) -> tuple[MinimalPairs, np.ndarray]:
    """Return pairs of each paradigm, and which of them choose heads."""
    every = own_pairs() if options.pairs is None else pairs(options.pairs)
    rng, indices, choose = np.random.default_rng(options.seed), [], []
    kinds = np.array([one.properties["paradigm"] for one in every.good])
    for paradigm in every.names("paradigm"):
        own = rng.permutation(np.flatnonzero(kinds == paradigm))[: options.each]
        indices += own.tolist()
        choose += (np.arange(len(own)) < len(own) // 2).tolist()
    return every.take(indices), np.array(choose)


def asked(model: jh.Model, chosen: MinimalPairs) -> tuple[jh.Batch, Any]:
    """Return the batch of pairs and its objective, ready to be asked."""
    bos = True if getattr(model.tokenizer, "bos_token_id", None) is not None else None
    objective = jh.minimal_pair([one.text for one in chosen.bad])
    good = model.encode([one.text for one in chosen.good], bos=bos)
    return objective.completed(model, good), objective.resolved(model)


def choose_heads(model: jh.Model, chosen: MinimalPairs, options: Options) -> dict[str, list[tuple[int, int]]]:
    """Return the heads with the largest derivatives, and beside each one of its layer that is none of them."""
    table = jh.importance(model, *asked(model, chosen), seed=options.seed, resume=options.unfinished)
    layers, numbers = np.unravel_index(np.argsort(-table.values, axis=None)[: options.heads], table.values.shape)
    best = [(int(layer), int(head)) for layer, head in zip(layers, numbers, strict=True)]
    rng, sets = np.random.default_rng(options.seed), {f"L{layer}H{head}": [(layer, head)] for layer, head in best}
    for layer, head in best:
        others = [other for other in range(table.values.shape[1]) if (layer, other) not in best]
        if others:
            sets[f"beside L{layer}H{head}"] = [(layer, int(rng.choice(others)))]
    return sets


def effects(model: jh.Model, held: MinimalPairs, sets: Any, options: Options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the accuracy by paradigm, and each set's effects by phenomenon and overall, with their intervals."""
    batch, objective = asked(model, held)
    before_E = np.asarray(objective(model, batch))
    table = jh.ablate(
        model, batch, objective, "mean", sets=sets, per_position=False, seed=options.seed, resume=options.unfinished
    )
    changes_ES = np.asarray(table.per_example)
    right_ES = (before_E[:, None] + changes_ES > 0).astype(float) - (before_E > 0)[:, None]
    kinds = {name: np.array([one.properties[name] for one in held.good]) for name in ("paradigm", "phenomenon")}
    rows = []
    for label in ("all", *held.names("phenomenon")):
        own = np.full(len(held), True) if label == "all" else kinds["phenomenon"] == label
        paradigms = kinds["paradigm"][own]
        clusters = paradigms if len(set(paradigms)) >= LEAST_PARADIGMS else None
        for number, name in enumerate(sets):
            row: dict[str, Any] = {"phenomenon": label, "ablated": name, "pairs": int(own.sum())}
            for column, values, within in (("nats", changes_ES, ANY), ("accuracy", right_ES, (-1.0, 1.0))):
                interval = jh.statistics.mean_interval(values[own, number], clusters=clusters, within=within)
                row |= lab.bounds(column, interval)
            rows.append(row)
    accuracy = []
    for paradigm in held.names("paradigm"):
        own = kinds["paradigm"] == paradigm
        if own.any():
            about = {"paradigm": paradigm, "phenomenon": kinds["phenomenon"][own][0], "pairs": int(own.sum())}
            accuracy.append(about | lab.bounds("accuracy", jh.statistics.wilson(before_E[own] > 0)))
    return pd.DataFrame(accuracy), pd.DataFrame(rows)


def run(options: Options) -> lab.Results:
    """Choose heads on one half of the pairs, and ablate them on the other."""
    model = jh.load(options.model)
    every, choose = read(options)
    first, held = (every.take(np.flatnonzero(which).tolist()) for which in (choose, ~choose))
    sets = choose_heads(model, first, options)
    accuracy, ablated = effects(model, held, sets, options)
    about = lab.provenance(model, files=every.files, pairs=len(every), seed=options.seed)
    tables = {"accuracy": accuracy, "ablated": ablated}
    return lab.Results(page(model, accuracy, ablated, len(first), sorted(every.files)), about, tables)


def serving(ablated: pd.DataFrame, names: list[str]) -> str:
    """Return in words which phenomena each head moves, by intervals that leave out 0, and what chance gives."""
    rows = [row for row in ablated.to_dict("records") if row["phenomenon"] != "all" and row["ablated"] in names]
    if not rows:
        return "There is one phenomenon."
    clear = [row for row in rows if row["nats_low"] > 0 or row["nats_high"] < 0]
    moved = {
        name: [f"{row['phenomenon']} ({row['nats']:+.2f})" for row in clear if row["ablated"] == name] for name in names
    }
    told = "; ".join(f"{name} {', '.join(own)}" for name, own in moved.items() if own) or "none"
    several = sum(len(own) > 1 for own in moved.values())
    return (
        f"By phenomenon {len(clear)} of {len(rows)} rows of chosen heads have an interval that leaves out 0, where "
        f"chance alone would give about {0.05 * len(rows):.0f}: {told} (nats). {several} of {len(names)} heads "
        "move more than one phenomenon."
    )


def page(model: jh.Model, accuracy: pd.DataFrame, ablated: pd.DataFrame, count: int, files: list[str]) -> str:
    """Return the page for readers."""
    overall: Any = ablated[ablated["phenomenon"] == "all"]
    overall = overall.to_dict("records")
    chosen = [row for row in overall if not str(row["ablated"]).startswith("beside")]
    beside = [row for row in overall if str(row["ablated"]).startswith("beside")]
    worst = min(chosen, key=lambda row: row["accuracy"])
    other = min(beside, key=lambda row: row["accuracy"]) if beside else None
    right, number = (accuracy[name].to_numpy(float) for name in ("accuracy", "pairs"))
    mean = jh.statistics.mean_interval(right, counts=number, within=(0.0, 1.0))
    clear, by_chance = (
        sum(row["accuracy_low"] > 0 or row["accuracy_high"] < 0 for row in rows) for rows in (chosen, beside)
    )
    more = "" if other is None else f" (of the heads beside them {other['ablated'][7:]}: {span(other, 'accuracy')})"
    source = f"{len(files)} files of BLiMP" if files else "pairs of the package's own: no finding"
    return f"""# Which heads the preference for the right sentence rests on, in {model.name}

{model.name} prefers the right sentence in {mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}] of {int(np.sum(number))}
pairs (n = {len(accuracy)} paradigms; {source}). Of {len(chosen)} heads chosen by derivatives on {count} other pairs,
{clear} change that accuracy when ablated by an interval that leaves out 0, of {len(beside)} heads beside them
{by_chance}. The largest loss among the chosen, {worst["ablated"]}'s, is {span(worst, "accuracy")}{more}; it moves
log p(right) − log p(wrong) by {span(worst, "nats")} nats. {serving(ablated, [str(row["ablated"]) for row in chosen])}

Intervals: 95 %, over paradigms where a row has {LEAST_PARADIGMS} of them or more, else over pairs: {"`…_n`"} counts
them. Pairs of one paradigm are made by one template, so intervals over pairs say nothing of other templates.

{lab.markdown(spanned(ablated, ("nats", "accuracy")), ".2f")}

"Beside": a head of the same layer that was not chosen. Mean ablation; the means are over all positions but the first.
`accuracy` is the change of the share of right pairs, from −1 to 1.

## Accuracy by paradigm

{lab.markdown(spanned(accuracy, ("accuracy",)), ".2f")}

Wilson's intervals, over pairs. Warstadt et al. 2020 give accuracies of people and of GPT-2; their table was not read
again.
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
