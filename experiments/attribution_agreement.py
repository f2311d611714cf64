"""Attribution of a behaviour to heads and tokens: do the methods agree on which matter, and what does each cost?

    python -m experiments.attribution_agreement [--model NAME] [--examples N] [--quick] [--out DIR] [--seed S]

Heads: mean ablation and patching (whole effects, recomputed by the sweeps), their gradient approximations, importance
(Michel et al. 2019), direct effects on the logits, and relevance by four methods, all on the same prompts with an
indirect object (Wang et al. 2022) and the same logit difference. Tokens: rollout, flow, Chefer and the relevance
methods, against blanking tokens out one by one. Agreement is Spearman's rank correlation over heads (of absolute
values, since methods do not share a sign), example by example, then averaged, with its interval; beside it the
correlation of the means over examples, from which tables of heads are read, with a jackknife. Prompts of one template
are a cluster. Costs are medians of calls taken in turns, as multiples of a forward pass in the same turn.

Found on SmolLM2-135M-Instruct, quantised to 4 bits (results/attribution-agreement; 16 prompts of as many templates, 270
heads; 95 % intervals). Gradients approximate their own sweep well: AtP and patching agree by 0.96 [0.96, 0.97] example
by example, by 0.92 [0.84, 1.00] for the means, at about a tenth of the cost. Yet they miss heads: 16.0, whose patching
costs 1.29, has the wrong sign in AtP; the page names all 5. Patching and mean ablation (means by template and position)
agree by 0.72 [0.69, 0.75], importance and ablation by 0.39, and direct effects with ablation by 0.20, for most effects
of a head pass through later layers.

Relevance by rules answers another question: AttnLRP agrees with ablation by 0.38 [0.34, 0.43], CP-LRP by 0.24, the
conductance of integrated gradients by 0.19. This is no verdict, since these methods share out one logit, where ablation
removes a head; but a head chosen by one of them is not the head that ablation would choose. For tokens, CP-LRP, AttnLRP
and integrated gradients find those whose removal lowers the difference most (comprehensiveness 6.8 [5.6, 8.0], 6.1
[5.0, 7.2], 6.0 [4.4, 7.4]), ahead of rollout (1.7 [1.0, 2.4]), which does not depend on the objective.

Cost: 10 minutes on 2 shared cores for the default 16 prompts, most of them for ablation, patching and atp*.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import ioi_prompts
from jaxheads.report import model_title
from jaxheads.statistics import jackknife_interval, mean_interval, rank_correlation, rows_of

from . import lab

RELEVANCE_METHODS = ("attnlrp", "cplrp", "integrated-gradients")
"""Relevance of heads. The absolute gradient × input of a head in one example is its importance, by definition."""

TOKEN_METHODS = ("rollout", "flow", "chefer", *RELEVANCE_METHODS, "gradient")
ALIGNED = 8
"""Corrupted prompts for each prompt, over which the mean of an ablation is taken, position by position."""

TIMED_PROMPTS, TURNS = 2, 2
"""Prompts whose calls are timed, and how often."""

QUICK_TOKEN_METHODS = ("rollout", "attnlrp", "gradient")
MOST_MISSED = 12
"""Heads that gradients miss, on the page; the others are in missed.csv."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes few prompts, and no methods that need many passes.

    Attributes:
        model: a decoder: zoo name, hub id or directory.
        examples: number of prompts; 16 when left out, 4 with --quick.
        seed: seed of the prompts.
    """

    out: Path = Path("results/attribution-agreement")
    model: str = "smollm2-135m"
    examples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Prompts:
    """Prompts with an indirect object, corrupted prompts of the same form, the objective, and the mean's reference."""

    clean: jh.Batch
    corrupt: jh.Batch
    objective: Any
    reference: dict[str, Any]


def make_prompts(model: jh.Model, count: int, seed: int) -> Prompts:
    """Return prompts with an indirect object, and their corruptions with three other names."""
    clean = ioi_prompts(model.tokenizer, examples=count, seed=seed, bos=model.tokenizer.bos_token_id is not None)
    objective = jh.logit_difference(clean.indirect_object, clean.subject)
    others = [clean.corrupted(seed + 2 + number) for number in range(ALIGNED)]
    tokens, mask = (np.concatenate([getattr(other, name) for other in others]) for name in ("tokens", "mask"))
    reference: dict[str, Any] = {
        "reference": jh.Batch(tokens, mask),
        "groups": clean.template,
        "reference_groups": np.tile(clean.template, ALIGNED),
    }
    plain, corrupt = (jh.Batch(p.tokens, p.mask, clusters=p.template) for p in (clean, clean.corrupted(seed + 1)))
    return Prompts(plain, corrupt, objective, reference)


def head_methods(
    model: jh.Model, prompts: Prompts, *, quick: bool, resume: Path | None = None
) -> dict[str, Callable[[], jh.HeadTable]]:
    """Return, by name, the methods that give a number for every head and example.

    Args:
        resume: a folder for finished parts; None keeps none.
    """
    clean, corrupt, objective = prompts.clean, prompts.corrupt, prompts.objective

    def relevance(method: Any) -> jh.HeadTable:
        table = jh.relevance(model, clean, objective, method, steps=8, baseline="zeros", resume=resume).heads
        assert table is not None
        return table

    methods: dict[str, Callable[[], jh.HeadTable]] = {
        "ablation (mean)": lambda: jh.ablate(model, clean, objective, "mean", **prompts.reference, resume=resume),
        "patching": lambda: jh.patch(model, clean, corrupt, objective, direction="noising", resume=resume),
        "atp": lambda: jh.attribute(model, clean, corrupt, objective, "atp", direction="noising", resume=resume),
        "atp*": lambda: jh.attribute(model, clean, corrupt, objective, "atp*", direction="noising", resume=resume),
        "importance": lambda: jh.importance(model, clean, objective, resume=resume),
        "direct effect": lambda: jh.direct_effects(model, clean, objective, resume=resume),
    }
    if quick:
        del methods["atp*"]
    for method in RELEVANCE_METHODS[: 1 if quick else None]:
        methods[f"relevance ({method})"] = lambda method=method: relevance(method)
    return methods


def example_values(table: jh.HeadTable) -> np.ndarray:
    """Return a table's first metric example by example, `[E,L,N]`."""
    values = table.per_example
    assert values is not None
    return values[0] if values.ndim == len(table.shape) + 2 else values


def costs(model: jh.Model, options: Options) -> pd.DataFrame:
    """Return what each method costs on few prompts, in forward passes; the least and most of the turns beside it.

    Every turn calls all methods one after the other, so that other work on the machine meets all of them.
    """
    prompts = make_prompts(model, TIMED_PROMPTS, options.seed)
    methods: dict[str, Callable[[], Any]] = {
        "forward": lambda: np.asarray(jh.run(model, prompts.clean).output),
        **head_methods(model, prompts, quick=options.quick),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(-1, 1 if options.quick else TURNS):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            # The first turn compiles.
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    passes = pd.DataFrame(seconds).div(seconds["forward"], axis=0).drop(columns="forward")
    columns = {"forward passes": passes.median(), "least": passes.min(), "most": passes.max()}
    return pd.DataFrame({**columns, "turns": len(passes)})


def agreement(values: Mapping[str, np.ndarray], clusters: np.ndarray | None) -> pd.DataFrame:
    """Return a row for each pair of methods, with two rank correlations of absolute values and their intervals.

    One is taken example by example, then averaged; the other is that of the means over examples.

    Args:
        values: each method's `[E,…]`.
        clusters: labels of examples that depend on each other.
    """
    rows = []
    for first, second in combinations(values, 2):
        both_E2C = np.stack([values[name].reshape(len(values[name]), -1) for name in (first, second)], axis=1)
        correlations: Any = [rank_correlation(np.abs(x), np.abs(y)) for x, y in both_E2C]
        mean = mean_interval(np.array(correlations, float), clusters=clusters, within=(-1, 1))
        of_means = jackknife_interval(
            lambda mean_2C: np.nan if (r := rank_correlation(*np.abs(mean_2C))) is None else r,
            rows_of(both_E2C, clusters=clusters),
            within=(-1, 1),
        )
        columns = {**lab.bounds("rank_correlation", mean), **lab.bounds("of_means", of_means)}
        rows.append({"first": first, "second": second, **columns})
    return pd.DataFrame(rows).drop(columns="of_means_n").rename(columns={"rank_correlation_n": "n"})


def missed_heads(tables: Mapping[str, jh.HeadTable]) -> pd.DataFrame:
    """Return the heads whose patching effect a gradient method misses or overstates, the largest gap first."""
    frames = []
    for name in ("atp", "atp*"):
        if name not in tables:
            continue
        compared = jh.compare_estimates(tables["patching"], tables[name])
        worst: Any = compared.top(n=len(compared.frame))
        wrong = worst[worst["missed"] | worst["overstated"]]
        what = np.where(wrong["missed"], np.where(wrong["overstated"], "wrong sign", "missed"), "overstated")
        heads = [f"{layer}.{head}" for _, layer, head in wrong.index]
        bounds = [f"{metric}{end}" for metric in ("exact", "estimate", "difference") for end in ("", "_low", "_high")]
        about = pd.DataFrame({"method": name, "head": heads, "what": what, "n": wrong["gap_n"].to_numpy()})
        frames.append(pd.concat([about, wrong[bounds].reset_index(drop=True)], axis=1))
    return pd.concat(frames, ignore_index=True)


def matrix(pairs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of the pairs as a square, methods in their order."""
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    square = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in pairs.to_dict("records"):
        square.loc[row["first"], row["second"]] = square.loc[row["second"], row["first"]] = row[column]
    return square


def picture(pairs: pd.DataFrame) -> "jh.plots.Picture":
    """Draw the matrix of the head methods, as numbers on colours."""
    square = matrix(pairs, "rank_correlation")
    figure, [axes] = jh.plots.panels(1, (9, 7))
    title, names = "methods' agreement over heads, mean over examples", list(square)
    jh.plots.heatmap(
        square.to_numpy(),
        title=title,
        label="Spearman's correlation",
        rows=names,
        columns=names,
        limits=(-1, 1),
        numbers=".2f",
        ax=axes,
    )
    return figure


def page(
    about: Mapping[str, Any], heads: pd.DataFrame, cost: pd.DataFrame, tokens: pd.DataFrame, missed: pd.DataFrame
) -> str:
    """Return the page for readers."""
    return f"""# Which heads matter, which tokens: {model_title(about["model"])}

{about["examples"]} prompts with an indirect object; those of one template are a cluster, and n counts clusters.
Intervals: 95 %. Gradient × input of heads is left out: example by example its size is the importance, by definition.

Mean ablation takes its means over the corrupted prompts, {about["means"]}.

## Heads: rank correlation of absolute values, example by example, then the mean

{matrix(heads, "rank_correlation").to_markdown(floatfmt=".2f")}

## Heads: rank correlation of the means over examples

{matrix(heads, "of_means").to_markdown(floatfmt=".2f")}

## Both with their intervals

{lab.markdown(heads, ".2f")}

## Heads that gradients miss

The interval of the effect of patching excludes 0, and the estimate is less than half of it or has the other sign
("missed"); or the same with the two exchanged ("overstated"). {len(missed)} in all, those with the largest gaps:

{lab.markdown(missed.head(MOST_MISSED))}

## Cost, in forward passes

{TIMED_PROMPTS} prompts, calls without compilation, every method in each turn; the machine was shared, so read orders of
magnitude.

{cost.to_markdown(floatfmt=".3g")}

## Tokens: faithfulness, beside blanking out (blank: the vocabulary's token {about["blank"]})

{lab.markdown(tokens)}
"""


def run(options: Options) -> lab.Results:
    """Call every method on the same prompts and compare the results."""
    model = jh.load(options.model)
    usual = 4 if options.quick else 16
    count = usual if options.examples is None else options.examples
    prompts = make_prompts(model, count, options.seed)
    methods = head_methods(model, prompts, quick=options.quick, resume=options.unfinished)
    results = {name: method() for name, method in methods.items()}
    values = {name: example_values(table) for name, table in results.items()}
    heads = agreement(values, prompts.clean.cluster_labels)
    cost = costs(model, options)
    blank = int(model.tokenizer.pad_token_id or model.tokenizer.unk_token_id or 0)
    by_token = QUICK_TOKEN_METHODS if options.quick else TOKEN_METHODS
    tokens = jh.faithfulness(
        model,
        prompts.clean,
        prompts.objective,
        by_token,
        blank=blank,
        points=5,
        seed=options.seed,
        options={name: {"baseline": "zeros"} for name in by_token if name == "integrated-gradients"},
    ).frame.drop(columns="seconds")
    about = lab.provenance(model, examples=count, seed=options.seed, blank=blank)
    missed = missed_heads(results)
    about["means"] = results["ablation (mean)"].provenance["means"]
    tables = {"heads": heads, "cost": cost, "tokens": tokens, "missed": missed}
    return lab.Results(page(about, heads, cost, tokens, missed), about, tables, {"heads": picture(heads)})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
