"""What does every head of a real model do, by all measures there are, and which of it is beyond chance?

    python -m experiments.head_measures [--models NAME …] [--quick] [--out DIR] [--seed S]

Patterns (weights, and the norms of what they carry), variability, circuits from the weights, direct effects, redundancy
with its test, and specialisation, each with intervals over examples and, where a measure has one, its null: random
weights of the same sizes on the same inputs, and for repeats the same positions with nothing to repeat. Texts are the
64 passages that come with jaxheads and random segments said twice; images are crops of scikit-learn's two photographs.

Found (results/head-measures). In SmolLM2-135M the previous-token head 16.0 and the induction heads 17.3, 17.4 and 18.6
are those that composition finds from the weights alone: K-composition of 0.16 to 0.17 between them, four times what
random matrices have (0.042 ± 0.0005). No head is selective beyond its null: looking at the first position is what 199
of 270 heads do in effect, so those that do something else nearly always do that too, and only heads that sink and do
nothing else are pure. In MiniLM-L6 head 0.2 looks at the previous token with 1.00.

How redundant heads are depends on what is compared. Of nine heads a layer, patterns make 1.7 to 2.9 effective ones, z's
4.5 to 6.3, what is written 5.9 to 8.4: heads that look alike carry different things. Giving a head the pattern of its
most similar neighbour costs at most 0.10 nats, and for some heads the loss even falls (by 0.09 at most, intervals
that leave out 0): on 16 windows of 24 tokens, not evidence that they could be trained away. Best heads hold up on the
other half of the examples: of induction 0.06 to 0.11 was luck of the choice, of previous-token scores nothing.

Cost on 2 cores: about 5 minutes for the three default models; --quick, a few examples of each, under one.
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

import jaxheads as jh
from jaxheads.files import write_together
from jaxheads.measure.patterns import CLASSES, VARIANTS, fits
from jaxheads.report.inputs import ablations, prose, repeats
from jaxheads.tables import HeadTable

MODELS = ("smollm2-135m", "minilm-l6", "dinov2-small")

FUNCTIONS = ("previous_token", "next_token", "self_token", "first_token")
REPEATED = ("induction", "duplicate_token")
"""What heads may be specialised in: on any text, and on repeats."""

NAMED = ("sink", "pattern_class", "entropy_smoothed", "confidence_without_last", "distance_without_first")
"""Variants that are measured beside the ten of `METRICS`."""


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes:
        models: zoo names, hub ids or directories.
        quick: a few examples.
        out: a folder for each model is made there.
    """

    models: tuple[str, ...] = MODELS
    quick: bool = False
    out: Path = Path("results/head-measures")
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """What a model is shown: anything, and repeats with their null (tokens only)."""

    plain: jh.Batch
    repeated: jh.Batch | None = None
    unrepeated: jh.Batch | None = None


def inputs_of(model: jh.Model, options: Options) -> Inputs:
    """Passages and repeats, or crops of photographs."""
    kind = model.network.streams[-1].queries.kind
    if kind == "patches":
        return Inputs(crops(model, 4 if options.quick else 24, options.seed))
    text = prose(model, None)
    tokens, mask = (np.concatenate([np.asarray(getattr(one, part)) for one in text]) for part in ("tokens", "mask"))
    kept = slice(0, 6 if options.quick else 48)
    made = repeats(model, examples=6 if options.quick else 24, longest=12 if options.quick else 24, seed=options.seed)
    return Inputs(jh.Batch(tokens[kept], mask[kept]), made.batch, made.null)


def crops(model: jh.Model, count: int, seed: int) -> jh.Batch:
    """Random crops, at least 300 pixels wide, of scikit-learn's photographs of a temple and a flower."""
    from sklearn.datasets import load_sample_images

    rng, images = np.random.default_rng(seed), load_sample_images().images
    found = []
    for index in range(count):
        image = images[index % len(images)]
        side = int(rng.integers(300, min(image.shape[:2])))
        top, left = (int(rng.integers(0, whole - side + 1)) for whole in image.shape[:2])
        found.append(image[top : top + side, left : left + side])
    return model.encode(found)


def patterns(model: jh.Model, given: Inputs, seed: int) -> dict[str, HeadTable]:
    """All measures of patterns, of weights and of norms, and the same of random weights."""
    part = model.stack()
    fitting = [metric for metric in (*jh.METRICS.values(), *(VARIANTS[name] for name in NAMED)) if fits(metric, part)]
    chance = jh.random_weights(model, seed)
    tables = {
        "patterns": jh.measure(model, given.plain, fitting, seed=seed),
        "norms": jh.measure(model, given.plain, fitting, of="norms", seed=seed),
        "patterns-null": jh.measure(chance, given.plain, fitting, seed=seed),
    }
    if given.repeated is not None and given.unrepeated is not None:
        tables["repeats"] = jh.measure(model, given.repeated, REPEATED, seed=seed)
        tables["repeats-null"] = jh.measure(model, given.unrepeated, REPEATED, scored_as=given.repeated, seed=seed)
        tables["variability"] = jh.variability(model, given.plain, 10, seed=seed)
    return tables


def specialised(tables: Mapping[str, HeadTable], seed: int) -> jh.Specialisation:
    """In all functions that the stack's positions allow, against random weights and unrepeated text."""
    source = {name: "patterns" for name in FUNCTIONS if name in tables["patterns"].metrics}
    source |= {name: "repeats" for name in REPEATED if "repeats" in tables}
    scores = {name: _each(tables[table], name) for name, table in source.items()}
    nulls = {name: _each(tables[f"{table}-null"], name) for name, table in source.items()}
    first = tables["patterns"]
    about = {name: first.provenance[name] for name in ("model", "weights")}
    return jh.specialisation(scores, nulls, stack=first.stack, seed=seed, provenance=about)


def _each(table: HeadTable, name: str) -> np.ndarray:
    assert table.per_example is not None
    return table.per_example[table.metrics.index(name)]


def redundancy(model: jh.Model, given: Inputs, options: Options) -> tuple[pd.DataFrame, jh.HeadPairs]:
    """Effective heads of each layer in three senses, and how alike patterns are."""
    few = given.plain.take(np.arange(min(len(given.plain), 3 if options.quick else 12)))
    compared = {by: jh.compare_heads(model, few, by, seed=options.seed) for by in ("js", "outputs", "cka")}
    effective = pd.DataFrame({by: pairs.effective_heads() for by, pairs in compared.items()})
    effective.insert(0, "heads", model.stack().heads)
    effective.index.name = "layer"
    return effective, compared["js"]


def of_a_decoder(model: jh.Model, given: Inputs, alike: jh.HeadPairs, options: Options) -> dict[str, HeadTable]:
    """What can be asked of language models only: sharing the nearest pattern, direct effects, copying, the lens."""
    found = {"copying": jh.eigenvalue_copying(model)}
    asked, left_out = ablations(model, [given.plain], examples=4 if options.quick else 16, seed=options.seed)
    for reason in left_out:
        print(f"left out: {reason}")
    by_name = {question.name: question for question in asked}
    question = by_name["prose_loss"]
    found["share"] = jh.share(model, question.batch, question.objective, alike.nearest(), seed=options.seed)
    if (question := by_name.get("ioi_logit_difference")) is not None:
        found["direct"] = jh.direct_effects(model, question.batch, question.objective, seed=options.seed)
        found["lens"] = jh.logit_lens(model, question.batch, question.objective.right, seed=options.seed)  # type: ignore
    return found


def figure(tables: Mapping[str, HeadTable], made: jh.Specialisation, name: str) -> Figure:
    """Four heatmaps: entropy, distance, the share of norms that goes to the first position, selectivity."""
    drawn = Figure(figsize=(13, 8), layout="constrained")
    drawn.suptitle(name)
    chosen = [(tables["patterns"], "entropy"), (tables["patterns"], "distance"), (tables["norms"], "first_token")]
    for axes, (table, column) in zip(drawn.subplots(2, 2).flat, [*chosen, (made.heads, "selectivity")], strict=True):
        table.plot(column, ax=axes)
    return drawn


def page(
    name: str, tables: Mapping[str, HeadTable], made: jh.Specialisation, effective: pd.DataFrame, pairs: pd.DataFrame
) -> str:
    """What was found, for a reader."""
    measured, frame = tables["patterns"], made.heads.frame
    kinds = measured.frame.get("pattern_class_index")
    lines = [f"# Every head of {name}, by all measures", ""]
    lines += [
        f"{measured.provenance['examples']} examples, {measured.provenance['tokens']:,} positions. Intervals: 95 %."
    ]
    if kinds is not None:
        counts = kinds.map(dict(enumerate(CLASSES))).value_counts()
        lines += ["", "Kinds of maps: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + "."]
    lines += ["", "## Who does what, and nothing else", "", _markdown(made.functions), ""]
    best: Any = frame[frame["strength"] > 0]
    best = best.sort_values(["strength", "selectivity"], ascending=False).head(12)
    lines += [_markdown(best[["function", "strength", "selectivity", "selectivity_low", "selectivity_high", "p"]])]
    lines += ["", "## The best heads, chosen on one half and reported on the other", ""]
    for metric, table in (("previous_token", "patterns"), ("induction", "repeats"), ("distance", "patterns")):
        if table in tables and metric in tables[table].metrics:
            lines += [_markdown(jh.held_out(tables[table], metric, 3)), ""]
    lines += ["## How many different heads a layer has in effect", "", _markdown(effective), ""]
    lines += ["## Composition, the strongest pairs beside the random baseline", "", _markdown(pairs.head(8)), ""]
    for title, table in (
        ("direct effects", "direct"),
        ("copying", "copying"),
        ("sharing the nearest pattern", "share"),
    ):
        if table in tables:
            lines += [f"## Largest {title}", "", _markdown(tables[table].top(n=6, absolute=True)), ""]
    return "\n".join(lines)


def _markdown(frame: pd.DataFrame) -> str:
    return frame.reset_index().to_markdown(index=False, floatfmt=".3g")


def measure_all(name: str, options: Options) -> Path:
    """One model: its tables, figure and page in a folder of its own."""
    model = jh.load(name)
    given = inputs_of(model, options)
    tables = patterns(model, given, options.seed)
    made = specialised(tables, options.seed)
    effective, alike = redundancy(model, given, options)
    composed = jh.composition(model, draws=16 if options.quick else 64, seed=options.seed).frame
    if model.causal and model.network.unembedding is not None:
        tables |= of_a_decoder(model, given, alike, options)
    folder = options.out / Path(name).name
    for title, table in {**tables, "specialisation": made.heads}.items():
        dataclasses.replace(table, name=title).save(folder)
    pairs = composed.sort_values(next(kind for kind in ("k", "v", "q") if kind in composed), ascending=False)
    text = page(model.name, tables, made, effective, pairs)
    write_together(
        {
            folder / "summary.md": text.encode(),
            folder / "functions.csv": made.functions.to_csv(lineterminator="\n").encode(),
            folder / "effective-heads.csv": effective.to_csv(lineterminator="\n").encode(),
            folder / "composition.csv": pairs.head(500).to_csv(lineterminator="\n").encode(),
            folder / "heads.png": lambda file: figure(tables, made, model.name).savefig(file, format="png", dpi=80),
        }
    )
    return folder


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.head_measures", description=__doc__)
    try:
        for name in options.models:
            folder = measure_all(name, options)
            print((folder / "summary.md").read_text(encoding="utf-8"))
            print(f"written to {folder}")
    except (ValueError, OSError) as error:
        sys.exit(f"head_measures: {error}")


if __name__ == "__main__":
    main()
