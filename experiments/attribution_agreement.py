"""Agreement between methods that say which heads, and which tokens, matter; and the cost of each method.

    python -m experiments.attribution_agreement [--model NAME] [--examples N] [--quick] [--out DIR] [--seed S]

Heads: mean ablation and patching (whole effects, recomputed by the sweeps), their gradient approximations, importance
(Michel et al. 2019), direct effects on the logits, and relevance by four methods, all on the same prompts with an
indirect object (Wang et al. 2022) and the same logit difference. Tokens: rollout, flow, Chefer and the relevance
methods, against blanking tokens out one by one. Agreement is Spearman's rank correlation over heads (of absolute
values, since methods do not share a sign), example by example, then averaged, with a bootstrap over examples; beside it
the correlation of the means over examples, from which tables of heads are read. Seconds are of a second call, without
compilation.

Found on SmolLM2-135M-Instruct, quantised to 4 bits (results/attribution-agreement; 16 prompts, 270 heads). Gradients
approximate their own sweep well: AtP and patching agree by 0.96 example by example (0.92 for the means), in a fortieth
of the time. They do not answer another question: patching and mean ablation agree by only 0.51, importance and ablation
by 0.62, and direct effects with ablation by 0.12, for most effects of a head pass through later layers. Importance and
gradient × input are the same number here (1.00 example by example): the derivative by a gate is the sum of z · ∂.

Relevance by rules answers yet another question: AttnLRP agrees with ablation by 0.39, CP-LRP by 0.24, the conductance
of integrated gradients by 0.22. This is no verdict, since these methods share out one logit, where ablation removes a
head; but a head chosen by one of them is not the head that ablation would choose. For tokens, CP-LRP, AttnLRP and
integrated gradients find those whose removal lowers the difference most (comprehensiveness 6.8, 6.1 and 6.0), far ahead
of rollout (1.7), which does not depend on the objective. Seconds were measured on a quiet machine, except for mean
ablation, which other work slowed down.

Cost on 2 cores: 11 minutes for the default 16 prompts of SmolLM2-135M-Instruct, most of them for ablation, patching
and atp*.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import jaxheads as jh
from experiments import lab
from jaxheads.data import ioi_prompts
from jaxheads.statistics import mean_interval, rank_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELEVANCE_METHODS = ("attnlrp", "cplrp", "gradient", "integrated-gradients")
TOKEN_METHODS = ("rollout", "flow", "chefer", *RELEVANCE_METHODS)
QUICK_TOKEN_METHODS = ("rollout", "attnlrp", "gradient")


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes few prompts, and no methods that need many passes.

    Attributes:
        model: a decoder: zoo name, hub id or directory.
        examples: number of prompts; 16 when left out, 3 with --quick.
        seed: seed of the prompts and of the bootstrap.
    """

    out: Path = Path("results/attribution-agreement")
    model: str = "smollm2-135m"
    examples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Prompts:
    """Prompts with an indirect object, corrupted prompts of the same form, and the objective."""

    clean: jh.Batch
    corrupt: jh.Batch
    objective: Any


def make_prompts(model: jh.Model, count: int, seed: int) -> Prompts:
    """Return prompts with an indirect object, and their corruptions with three other names."""
    clean = ioi_prompts(model.tokenizer, examples=count, seed=seed, bos=model.tokenizer.bos_token_id is not None)
    corrupt = clean.corrupted(seed + 1)
    objective = jh.logit_difference(clean.indirect_object, clean.subject)
    return Prompts(jh.Batch(clean.tokens, clean.mask), jh.Batch(corrupt.tokens, corrupt.mask), objective)


def head_methods(model: jh.Model, prompts: Prompts, *, quick: bool) -> dict[str, Callable[[], jh.HeadTable]]:
    """Return, by name, the methods that give a number for every head and example."""
    clean, corrupt, objective = prompts.clean, prompts.corrupt, prompts.objective

    def relevance(method: Any) -> jh.HeadTable:
        table = jh.relevance(model, clean, objective, method, steps=8).heads
        assert table is not None
        return table

    methods: dict[str, Callable[[], jh.HeadTable]] = {
        "ablation (mean)": lambda: jh.ablate(model, clean, objective, "mean", reference=corrupt),
        "patching": lambda: jh.patch(model, clean, corrupt, objective, direction="noising"),
        "atp": lambda: jh.attribute(model, clean, corrupt, objective, "atp", direction="noising"),
        "atp*": lambda: jh.attribute(model, clean, corrupt, objective, "atp*", direction="noising"),
        "importance": lambda: jh.importance(model, clean, objective),
        "direct effect": lambda: jh.direct_effects(model, clean, objective),
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


def call_twice(methods: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return each method's result, and the seconds of its second call."""
    results, seconds = {}, {}
    for name, method in methods.items():
        method()
        start = time.perf_counter()
        results[name] = method()
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
    return results, seconds


def agreement(values: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
    """Return a row for each pair of methods, with two rank correlations of absolute values.

    One is taken example by example, then averaged, with its interval; the other is that of the means over examples.

    Args:
        values: each method's `[E,…]`.
        seed: seed of the bootstrap.
    """
    rows = []
    for first, second in combinations(values, 2):
        first_EC, second_EC = (np.abs(values[name]).reshape(len(values[name]), -1) for name in (first, second))
        correlations: Any = [rank_correlation(x, y) for x, y in zip(first_EC, second_EC, strict=True)]
        mean, low, high, _ = map(float, mean_interval(np.array(correlations, float)))
        of_means = rank_correlation(np.abs(values[first].mean(axis=0)), np.abs(values[second].mean(axis=0)))
        columns = {"rank_correlation": mean, "rank_correlation_low": low, "rank_correlation_high": high}
        rows.append({"first": first, "second": second, **columns, "of_means": of_means})
    return pd.DataFrame(rows)


def matrix(pairs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of the pairs as a square, methods in their order."""
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    square = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in pairs.to_dict("records"):
        square.loc[row["first"], row["second"]] = square.loc[row["second"], row["first"]] = row[column]
    return square


def picture(pairs: pd.DataFrame) -> "Figure":
    """Draw the matrix of the head methods, as numbers on colours."""
    square = matrix(pairs, "rank_correlation")
    figure, [axes] = lab.panels(1, (8, 7))
    axes.imshow(square.to_numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(square)), list(square), rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(square)), list(square.index), fontsize=8)
    for (row, column), value in np.ndenumerate(square.to_numpy()):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axes.set_title("rank correlation over heads, mean over examples")
    return figure


def page(about: Mapping[str, Any], heads: pd.DataFrame, cost: pd.DataFrame, tokens: pd.DataFrame) -> str:
    """Return the page for readers."""
    return f"""# Which heads matter, which tokens: {about["model"]}, {about["examples"]} prompts with an indirect object

## Heads: rank correlation of absolute values, example by example, then the mean

{matrix(heads, "rank_correlation").to_markdown(floatfmt=".2f")}

## Heads: rank correlation of the means over examples

{matrix(heads, "of_means").to_markdown(floatfmt=".2f")}

## Cost

{cost.to_markdown(floatfmt=".3g")}

## Tokens: faithfulness, beside blanking out (blank: the vocabulary's token {about["blank"]})

{lab.markdown(tokens)}

Intervals of all pairs are in heads.csv.
"""


def run(options: Options) -> lab.Results:
    """Call every method on the same prompts and compare the results."""
    model = jh.load(options.model)
    count = options.examples or (3 if options.quick else 16)
    prompts = make_prompts(model, count, options.seed)
    tables, seconds = call_twice(head_methods(model, prompts, quick=options.quick))
    heads = agreement({name: example_values(table) for name, table in tables.items()}, options.seed)
    cost = pd.DataFrame({"seconds": seconds})
    cost["of a mean ablation"] = cost["seconds"] / seconds["ablation (mean)"]
    blank = int(model.tokenizer.pad_token_id or model.tokenizer.unk_token_id or 0)
    methods = QUICK_TOKEN_METHODS if options.quick else TOKEN_METHODS
    tokens = jh.faithfulness(
        model, prompts.clean, prompts.objective, methods, blank=blank, points=5, seed=options.seed
    ).frame
    about = lab.provenance(model, examples=count, seed=options.seed, blank=blank)
    tables = {"heads": heads, "cost": cost, "tokens": tokens}
    return lab.Results(page(about, heads, cost, tokens), about, tables, {"heads": picture(heads)})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
