"""Every head of a real model by all measures: which beat their nulls?

    python -m experiments.head_measures [--models NAME …] [--quick] [--out DIR] [--seed S]

Patterns (attention weights, and norms of the values they carry), variability, circuits from the weights, direct
effects, redundancy with its test, and specialisation, with intervals over examples. Nulls: random weights of the same
sizes on the same inputs, and for repeats the same positions without repetition. Texts are the 64 passages that come
with jaxheads, and random segments that are repeated once; images are crops of scikit-learn's two photographs.

Found (results/head-measures; 95 % intervals). In SmolLM2-135M-Instruct, quantised to 4 bits, composition finds the
previous-token head 16.0 and the induction heads 17.3, 17.4 and 18.6 from the weights alone: their K-composition is 0.16
to 0.17, four times that of random matrices (0.042 ± 0.0005). Beside heads of 6 random-weight models 264 of 270 heads
are specialised (q ≤ 0.05). Few are selective for anything but rest: 81 heads have a selectivity above 0.9, 76 of them
for the first position, 3 for the previous token and 2 for the token itself; induction heads reach 0.61, since nearly
all heads with another function attend to the first position, too.

The redundancy of heads depends on the comparison. Nine heads of a layer are worth 1.7 to 2.9 different ones by their
patterns, 4.4 to 6.3 by z, and 5.9 to 8.4 by their outputs: heads that look alike carry different information. Of the 6
heads that a shared pattern changes most, chosen on 8 passages, 4 cost 0.03 to 0.09 nats on the 8 others; the two whose
removal of the pattern seemed to help do nothing there (0.01 [-0.10, 0.13], 0.00 [-0.06, 0.24]). 0.06 to 0.11 of the
best induction scores was luck of the choice, nothing of the previous-token scores.

Cost on 2 cores: 7 minutes of CPU for SmolLM2, 80 s for both other models; --quick, a few examples of each, one minute.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.measure.patterns import CLASSES, VARIANTS, fits
from jaxheads.report import ablations, model_title, prose, repeats

from . import lab

FUNCTIONS = ("previous_token", "next_token", "self_token", "first_token")
"""Functions in which heads may specialise, measured on any text."""

REPEATED = ("induction", "duplicate_token")
"""Functions in which heads may specialise, measured on repeats."""

NAMED = ("sink", "pattern_class", "entropy_smoothed", "confidence_without_last", "distance_without_first")
"""Variants that are measured beside the ten of `METRICS`."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. Results go into a folder for each model.

    Attributes:
        models: zoo names, hub ids or directories.
        seed: seed of the inputs, the null's weights and the halves.
    """

    out: Path = Path("results/head-measures")
    models: tuple[str, ...] = ("smollm2-135m", "minilm-l6", "dinov2-small")
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """Inputs of one model: plain ones and, for text, repeats with their null."""

    plain: jh.Batch
    repeated: jh.Batch | None = None
    unrepeated: jh.Batch | None = None


def model_inputs(model: jh.Model, options: Options) -> Inputs:
    """Return passages and repeats, or crops of photographs."""
    if model.network.streams[-1].queries.kind == "patches":
        return Inputs(crops(model, 4 if options.quick else 24, options.seed))
    batches = prose(model, None)
    tokens, mask, labels = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("tokens", "mask", "clusters")
    )
    count = 12 if options.quick else 48
    examples, longest = (6, 12) if options.quick else (24, 24)
    repeated = repeats(model, examples=examples, longest=longest, seed=options.seed)
    plain = jh.Batch(tokens[:count], mask[:count], clusters=labels[:count])
    return Inputs(plain, repeated.batch, repeated.nulls[0])


def crops(model: jh.Model, count: int, seed: int) -> jh.Batch:
    """Return random crops, at least 300 pixels wide, of scikit-learn's photographs of a temple and a flower."""
    datasets = lab.extra("sklearn.datasets", "the photographs of this experiment")
    rng, photographs = np.random.default_rng(seed), datasets.load_sample_images().images
    images = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = int(rng.integers(300, min(photograph.shape[:2])))
        top, left = (int(rng.integers(0, whole - side + 1)) for whole in photograph.shape[:2])
        images.append(photograph[top : top + side, left : left + side])
    return model.encode(images)


def pattern_tables(model: jh.Model, inputs: Inputs, options: Options) -> dict[str, jh.HeadTable]:
    """Return all measures of attention weights and of norms, and those of random weights and of unrepeated text."""
    stack, seed, resume = model.stack(), options.seed, options.unfinished
    measure = partial(jh.measure, seed=seed, resume=resume)
    metrics = [metric for metric in (*jh.METRICS.values(), *(VARIANTS[name] for name in NAMED)) if fits(metric, stack)]
    random = jh.random_weights(model, seed)
    tables = {
        "patterns": measure(model, inputs.plain, metrics),
        "norms": measure(model, inputs.plain, metrics, of="norms"),
        "patterns-null": measure(random, inputs.plain, metrics),
    }
    if inputs.repeated is not None and inputs.unrepeated is not None:
        tables["repeats"] = measure(model, inputs.repeated, REPEATED)
        tables["repeats-null"] = measure(model, inputs.unrepeated, REPEATED, scored_as=inputs.repeated)
        tables["variability"] = jh.variability(model, inputs.plain, 10, exclude_first=False, seed=seed, resume=resume)
    return tables


def specialisation(
    model: jh.Model, inputs: Inputs, tables: Mapping[str, jh.HeadTable], options: Options
) -> jh.Specialisation:
    """Return the heads' specialisation in all functions that the inputs allow, against several random models."""
    patterns = tables["patterns"]
    sources = {"patterns": ([name for name in FUNCTIONS if name in patterns.metrics], inputs.plain)}
    if inputs.repeated is not None:
        sources["repeats"] = (list(REPEATED), inputs.repeated)
    scores = {name: _example_values(tables[table], name) for table, (names, _) in sources.items() for name in names}
    nulls: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for draw in range(2 if options.quick else 6):
        random = jh.random_weights(model, options.seed + draw)
        for names, batch in sources.values():
            measured = jh.measure(random, batch, names, seed=options.seed, resume=options.unfinished)
            for name in names:
                nulls[name].append(_example_values(measured, name))
    about = {name: patterns.provenance[name] for name in ("model", "weights")}
    return jh.specialisation(scores, nulls, stack=patterns.stack, seed=options.seed, provenance=about)


def _example_values(table: jh.HeadTable, name: str) -> np.ndarray:
    assert table.per_example is not None
    return table.per_example[table.metrics.index(name)]


def redundancy(model: jh.Model, inputs: Inputs, options: Options) -> tuple[pd.DataFrame, jh.HeadPairs]:
    """Return the effective heads of each layer by three comparisons, and the comparison of patterns."""
    few = inputs.plain.take(np.arange(min(len(inputs.plain), 3 if options.quick else 12)))
    compare = partial(jh.compare_heads, seed=options.seed, resume=options.unfinished)
    compared = {by: compare(model, few, by) for by in ("js", "outputs", "cka")}
    effective = pd.DataFrame({by: pairs.effective_heads() for by, pairs in compared.items()})
    effective.insert(0, "heads", model.stack().heads)
    effective.index.name = "layer"
    return effective, compared["js"]


def decoder_tables(model: jh.Model, inputs: Inputs, similar: jh.HeadPairs, options: Options) -> dict[str, jh.HeadTable]:
    """Return the measures that only language models have: shared patterns, direct effects, copying, the logit lens."""
    tables = {"copying": jh.eigenvalue_copying(model)}
    asked, left_out = ablations(model, [inputs.plain], examples=4 if options.quick else 16, seed=options.seed)
    for reason in left_out:
        print(f"left out: {reason}")
    by_name: dict[str, Any] = {ablation.name: ablation.again for ablation in asked}
    loss, about = by_name["prose_loss"], {"seed": options.seed, "resume": options.unfinished}
    tables["share"] = jh.share(model, loss.batch, loss.objective, similar.nearest(), **about)
    if (ioi := by_name.get("ioi_logit_difference")) is not None:
        tables["direct"] = jh.direct_effects(model, ioi.batch, ioi.objective, **about)
        tables["lens"] = jh.logit_lens(model, ioi.batch, ioi.objective.right, **about)
    return tables


def picture(tables: Mapping[str, jh.HeadTable], specialised: jh.Specialisation, name: str) -> "jh.plots.Picture":
    """Draw four heatmaps: entropy, distance, the share of norms on the first position, selectivity."""
    figure, four = jh.plots.panels(4, (13, 8), rows=2)
    figure.suptitle(name)
    tables["patterns"].plot("entropy", ax=four[0])
    tables["patterns"].plot("distance", ax=four[1])
    tables["norms"].plot("first_token", ax=four[2])
    specialised.heads.plot("selectivity", ax=four[3])
    return figure


HELD_OUT = (
    "Chosen on one half of the examples and reported on the other, n of them (passages, not windows of them). "
    "Optimism: by how much the first half is better; q: that the other half shares the sign by chance, corrected over "
    "the rows."
)


def page(
    name: str,
    tables: Mapping[str, jh.HeadTable],
    specialised: jh.Specialisation,
    effective: pd.DataFrame,
    pairs: pd.DataFrame,
) -> str:
    """Return the page for readers."""
    patterns, heads = tables["patterns"], specialised.heads.frame
    about = patterns.provenance
    lines = [f"# Every head of {model_title(name)}, by all measures", ""]
    lines += [f"{about['examples']} examples, {about['tokens']:,} positions. Intervals: 95 %."]
    if "repeats" not in tables:
        lines += ["", "The examples are crops of two photographs: intervals hold for other crops of these two alone."]
    classes = patterns.frame.get("pattern_class_index")
    if classes is not None:
        counts = classes.map(dict(enumerate(CLASSES))).value_counts()
        lines += ["", "Classes of patterns: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + "."]
    best: Any = heads[heads["strength"] > 0]
    best = best.sort_values(["strength", "selectivity"], ascending=False).head(12)
    columns = ["function", "strength", "selectivity", "selectivity_low", "selectivity_high", "p", "q"]
    lines += ["", "## Functions, and the heads specialised in them", "", lab.markdown(specialised.functions), ""]
    lines += [lab.markdown(best[columns]), ""]
    lines += ["## The best heads", "", HELD_OUT, ""]
    for metric, table in (("previous_token", "patterns"), ("induction", "repeats"), ("distance", "patterns")):
        if table in tables and metric in tables[table].metrics:
            lines += [lab.markdown(jh.held_out(tables[table], metric, 3)), ""]
    lines += ["## Effective number of different heads, by layer", "", lab.markdown(effective), ""]
    lines += ["## Composition: the strongest pairs, beside the random baseline", "", lab.markdown(pairs.head(8)), ""]
    titles = {"direct": "direct effects", "share": "effects of sharing the nearest pattern"}
    for table, title in titles.items():
        if table in tables:
            leading = jh.held_out(tables[table], n=6, absolute=True)
            lines += [f"## Largest {title}", "", HELD_OUT, "", lab.markdown(leading), ""]
    if "copying" in tables:
        lines += ["## Largest copying: numbers of the weights, exact, without examples", ""]
        exact: Any = tables["copying"].top(n=6, absolute=True)
        lines += [lab.markdown(exact[["copying"]]), ""]
    return "\n".join(lines)


def measure_model(name: str, options: Options) -> lab.Results:
    """Take all measures of one model."""
    model = jh.load(name)
    inputs = model_inputs(model, options)
    tables = pattern_tables(model, inputs, options)
    specialised = specialisation(model, inputs, tables, options)
    effective, similar = redundancy(model, inputs, options)
    composition = jh.composition(model, draws=16 if options.quick else 64, seed=options.seed).frame
    if model.causal and model.network.unembedding is not None:
        tables |= decoder_tables(model, inputs, similar, options)
    kind = next(kind for kind in ("k", "v", "q") if kind in composition)
    pairs = composition.sort_values(kind, ascending=False)
    return lab.Results(
        page(model.name, tables, specialised, effective, pairs),
        lab.provenance(model, seed=options.seed),
        {"functions": specialised.functions, "effective-heads": effective, "composition": pairs.head(500)},
        {"heads": picture(tables, specialised, model.name)},
        heads={**tables, "specialisation": specialised.heads},
        folder=Path(name).name,
    )


def run(options: Options) -> Iterator[lab.Results]:
    """Take all measures of each model, one model after the other."""
    for name in options.models:
        yield measure_model(name, options)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
