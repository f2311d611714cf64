"""Heads of sentiment: which heads hold it, does the model need them, and do they steer it?

    python -m experiments.sentiment_heads --positive PATH --negative PATH [--model NAME] [--quick] [--out DIR]

Four questions of one model. Which heads' output at the last word of a sentence holds its sentiment (a linear probe,
beside the majority, random weights and shuffled labels)? What does ablating the heads with the best probes do to the
model's own verdict, the preference for " good" over " bad" after "… It was", beside other heads of the same layers?
What does pushing heads towards the positive do (`jh.steer_heads`; Li et al. 2023, arXiv 2306.03341), with the loss
beside it? And which heads move most when "not" is put before an adjective, beyond "very"?

The texts are one a line: for English those of Pang & Lee 2005, movie reviews, as https://github.com/nltk/nltk_data has
them (`sentence_polarity`, rt-polarity.pos and .neg). Without files, --quick reads sentences of the package's own: they
show that it works, and nothing else.

Found: see results/sentiment-heads, whose first lines say it. Cost on 2 cores:
smollm2-135m, 800 sentences, nine minutes of processor time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentence, Sentences

from . import lab
from .support.relation_choice import span, spanned

ADJECTIVES = ("good", "bad", "great", "awful", "fine", "boring", "clever", "dull", "funny", "sad", "strong", "weak")
THINGS = ("film", "story", "plot", "acting")
VERDICT = {"positive": (" good", " bad"), "negative": (" bad", " good")}
"""By sentiment, the word that a right verdict ends in, and the other one."""

ASKS = ("It", "was")
"""Words that ask for the verdict."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        positive, negative: files of texts, one a line.
        model: zoo name, hub id or directory of a causal model.
        sentences: sentences in all, at random, half of either sentiment.
        heads: heads that are ablated; beside each one of its layer.
        seed: of the sentences, the halves and the random weights.
    """

    least: ClassVar = {"seed": 0, "sentences": 16, "heads": 1}
    out: Path = Path("results/sentiment-heads")
    positive: Path | None = None
    negative: Path | None = None
    model: str = "smollm2-135m"
    sentences: int = 800
    heads: int = 4
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError without texts, unless the run is quick."""
        super().check()
        if (self.positive is None or self.negative is None) and not self.quick:
            raise ValueError("--positive and --negative: expected files of texts, one a line (--quick runs without)")


def texts(options: Options) -> dict[str, list[str]]:
    """Return the texts of each sentiment."""
    paths = {"positive": options.positive, "negative": options.negative}
    if options.positive is None or options.negative is None:
        both = (ADJECTIVES[0::2], ADJECTIVES[1::2])
        return {
            name: [f"the {thing} was {word}" for thing in THINGS for word in own]
            for name, own in zip(paths, both, strict=True)
        }
    lines = {name: Path(str(path)).read_text(encoding="utf-8").splitlines() for name, path in paths.items()}
    return {name: [line.strip() for line in own if line.strip()] for name, own in lines.items()}


def read(options: Options) -> Sentences:
    """Return sentences of both sentiments, with the words that ask for a verdict, in random order."""
    rng, found = np.random.default_rng(options.seed), []
    for name, own in texts(options).items():
        for number in rng.permutation(len(own))[: options.sentences // 2].tolist():
            words = (*own[number].split()[:60], *ASKS)
            found.append(Sentence(words, properties={"sentiment": name}))
    return Sentences(tuple(found[number] for number in rng.permutation(len(found)).tolist()))


def best_probe(table: jh.HeadTable, options: Options) -> dict[str, Any]:
    """Return the head with the best probe, chosen on half of the test's sentences, with its numbers on the rest."""
    best = jh.held_out(table, "accuracy", n=1, seed=options.seed)
    where: Any = best.index[0]
    row: dict[str, Any] = {"head": f"L{where[1]}H{where[2]}", "sentences": int(best["accuracy_n"].iloc[0])}
    for name in ("accuracy", "majority", "control", "selectivity"):
        held = jh.held_out(table, name, n=len(table.frame), seed=options.seed).loc[where]
        row |= {f"{name}{end}": float(held[f"{name}{end}"]) for end in ("", "_low", "_high")}
    return row


def ablated(model: jh.Model, table: jh.HeadTable, held: Sentences, options: Options) -> pd.DataFrame:
    """Return what ablating the heads with the best probes does to right verdicts, beside others of their layers."""
    accuracy = table.grid("accuracy")
    layers, numbers = np.unravel_index(np.argsort(-accuracy, axis=None)[: options.heads], accuracy.shape)
    best = [(int(layer), int(head)) for layer, head in zip(layers, numbers, strict=True)]
    rng, sets = np.random.default_rng(options.seed), {}
    for layer, head in best:
        sets[f"L{layer}H{head}"] = [(layer, head)]
        others = [other for other in range(accuracy.shape[1]) if (layer, other) not in best]
        if others:
            sets[f"beside L{layer}H{head}"] = [(layer, int(rng.choice(others)))]
    verdicts = [VERDICT[one.properties["sentiment"]] for one in held]
    objective = jh.logit_difference([right for right, _ in verdicts], [wrong for _, wrong in verdicts])
    batch = model.encode([one.text for one in held])
    effects = jh.ablate(model, batch, objective, "mean", sets=sets, per_position=False, seed=options.seed)
    before = jh.statistics.mean_interval(objective(model, batch))
    rows = [{"ablated": "nothing: the preference itself", "pairs": len(held), **lab.bounds("effect", before)}]
    assert effects.per_example is not None
    for number, name in enumerate(sets):
        interval = jh.statistics.mean_interval(np.asarray(effects.per_example)[:, number])
        rows.append({"ablated": name, "pairs": len(held), **lab.bounds("effect", interval)})
    return pd.DataFrame(rows)


def negated(model: jh.Model, options: Options) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the head that "not" moves most beyond "very", with its numbers on the other half of the sentences."""
    plain, other, same = [], [], []
    for thing in THINGS:
        for word in ADJECTIVES:
            for kind, extra in ((plain, ()), (other, ("not",)), (same, ("very",))):
                kind.append(Sentence(("The", thing, "was", *extra, word, "indeed"), document=f"{thing} {word}"))
    table = jh.contrast(model, *(Sentences(tuple(kind)) for kind in (plain, other, same)), seed=options.seed)
    best = jh.held_out(table, "js_excess", n=5, seed=options.seed)
    rows: Any = best.reset_index(level="stack", drop=True).reset_index()
    return rows.iloc[0].to_dict(), rows


def run(options: Options) -> lab.Results:
    """Probe, ablate, steer and negate."""
    model, every = jh.load(options.model), read(options)
    first, held = every[: len(every) // 2], every[len(every) // 2 :]
    probe = jh.probe(model, first, "sentiment", at="last", seed=options.seed)
    random = jh.probe(jh.random_weights(model, options.seed), first, "sentiment", at="last", seed=options.seed)
    probes = pd.DataFrame(
        [
            {"weights": name, **best_probe(table, options)}
            for name, table in (("trained", probe), ("random weights", random))
        ]
    )
    effects = ablated(model, probe, held, options)
    verdict = jh.logit_difference(*VERDICT["positive"])
    steering = jh.steer_heads(model, every, "sentiment", "positive", verdict, seed=options.seed)
    moved, negation = negated(model, options)
    about = lab.provenance(model, sentences=len(every), seed=options.seed, steering=steering.provenance)
    frame: Any = steering.frame.reset_index()
    tables = {"probes": probes, "ablated": effects, "steered": frame, "negated": negation}
    text = page(model, probes, effects, frame, steering, moved, negation, options)
    return lab.Results(text, about, tables)


def shown_by(probe: dict[str, Any], steered: dict[str, Any]) -> tuple[str, str]:
    """Return in words what the probe shows beside shuffled labels, and steering beside shuffled directions."""
    shown = (
        "the labels add something" if probe["selectivity_low"] > 0 else "it is not shown that the labels add anything"
    )
    if steered["control_low"] > 0 or steered["control_high"] < 0:
        moves = "pushing these heads moves the verdict whatever the labels, so only the part beyond that is sentiment's"
    else:
        moves = "no change is shown without the right labels"
    beyond = abs(steered["effect"]) - abs(steered["control"])
    return shown, f"{moves} (the right labels' effect is larger by {beyond:.2f} in size)"


def page(
    model: jh.Model,
    probes: pd.DataFrame,
    effects: pd.DataFrame,
    frame: pd.DataFrame,
    steering: jh.Steering,
    moved: dict[str, Any],
    negation: pd.DataFrame,
    options: Options,
) -> str:
    """Return the page for readers."""
    own, random = probes.to_dict("records")
    before, *others = effects.to_dict("records")
    chosen = [row for row in others if not str(row["ablated"]).startswith("beside")]
    below = [row["ablated"] for row in chosen if row["effect_high"] < 0]
    beside = [row for row in others if str(row["ablated"]).startswith("beside") and row["effect_high"] < 0]
    chose: Any = frame[frame["chosen"]]
    best = chose.iloc[0].to_dict()
    source = "sentences of the package's own: no finding"
    if options.positive is not None and options.negative is not None:
        source = f"{options.positive.name} and {options.negative.name}"
    names = ", ".join(map(str, below)) or "none"
    loss = f", the next-token loss by {span(best, 'loss')} nats" if "loss" in best else ""
    numbers = ("accuracy", "majority", "control", "selectivity")
    shown = tuple(name for name in ("effect", "control", "loss") if name in frame)
    told, said = shown_by(own, best)
    return f"""# Sentiment by head: {model.name}

The head with the best probe ({own["head"]}) tells {span(own, "accuracy")} of sentences it was not chosen on (n =
{own["sentences"]}) right; with shuffled labels the same head's probe {span(own, "control")}, so that {told}
(selectivity {span(own, "selectivity")}). The more frequent sentiment gives {span(own, "majority")}, the best head of
random weights {span(random, "accuracy")}.

The model's own verdict (the right of " good" and " bad" less the other, logits) is
{span(before, "effect")}; of the {len(chosen)} heads with the best probes {len(below)} lower it when they are ablated
({names}), of those beside them {len(beside)} (by the upper end of the interval; n = {before["pairs"]} sentences
that chose nothing).

Steering {len(steering.heads)} heads towards the positive by {steering.strength:g} deviations
changes " good" less " bad" by {span(best, "effect")}{loss} (n = {best["n"]} sentences). Directions of shuffled labels
change it by {span(best, "control")} at the same strength: {said}.

Sentences of {source}. Intervals: 95 %, over sentences, which are taken to be independent.

## Probes

{lab.markdown(spanned(probes, numbers), ".2f")}

## Ablation (means in place of the heads' output)

{lab.markdown(spanned(effects, ("effect",)), ".3f")}

## Steering

{lab.markdown(spanned(frame, shown), ".3f")}

## Negation

"The film was not good indeed" beside "The film was good indeed", less "very" in place of "not": the Jensen–Shannon
divergence of each head's patterns over the words that both share, in nats. L{moved["layer"]}H{moved["head"]}, chosen
on one half of the {len(THINGS) * len(ADJECTIVES)} sentences, has {span(moved, "js_excess")} on the other.

{lab.markdown(negation.round(4), ".4f")}

A probe finds what can be read, not what is used; the sentences of the negation are made by a template.
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
