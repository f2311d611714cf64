"""Do the ways of asking which heads, and which tokens, matter agree with each other? And what does each cost?

    python -m experiments.attribution_agreement [--model NAME] [--examples N] [--quick] [--out DIR] [--seed S]

Heads: mean ablation and patching (whole effects, recomputed by the sweeps), their gradient approximations, importance
(Michel et al. 2019), direct effects on the logits, and relevance by four methods, all on the same prompts with an
indirect object (Wang et al. 2022) and the same logit difference. Tokens: rollout, flow, Chefer and the relevance
methods, against blanking tokens out one by one. Agreement is Spearman's rank correlation over heads (of absolute
values: methods do not share a sign), example by example, then averaged, with a bootstrap over examples; beside it that
of the means over examples, which is what tables of heads are read by. Seconds are of a second call, without compiling.

Found on SmolLM2-135M (results/attribution-agreement; 16 prompts, 270 heads). Gradients stand in well for the sweep they
approximate: AtP and patching agree by 0.96 example by example (0.92 of the means), for a fortieth of the time.
They do not stand in for another question: patching and mean ablation agree by 0.51 only, importance and ablation by
0.62, and direct effects with ablation by 0.12, for most of what a head does goes by way of later layers. Importance and
gradient × input are one number here (1.00 example by example): the slope of a gate is the sum of z · ∂.

Relevance by rules says something else again: AttnLRP agrees with ablation by 0.39, CP-LRP by 0.24, the conductance of
integrated gradients by 0.22. That is no verdict, since they share out one logit, where ablation takes a head away; but
a head chosen by one of them is not what ablation would have chosen. Of tokens, CP-LRP, AttnLRP and integrated gradients
find those without which the difference falls most (comprehensiveness 6.8, 6.1 and 6.0), far ahead of rollout (1.7),
which does not know what is asked. Seconds are those of a quiet machine, but for mean ablation, which other work slowed.

Cost on 2 cores: 11 minutes for the default 16 prompts of SmolLM2-135M, most of it ablation, patching and atp*.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

import jaxheads as jh
from jaxheads.data import ioi_prompts
from jaxheads.files import write_atomically, write_together
from jaxheads.provenance import environment
from jaxheads.statistics import bootstrap_mean, rank_correlation
from jaxheads.tables import HeadTable

TOKEN_METHODS = ("rollout", "flow", "chefer", "attnlrp", "cplrp", "gradient", "integrated-gradients")


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes:
        model: a decoder: zoo name, hub id or directory.
        examples: prompts; 16, or 3 with --quick.
        quick: few prompts, and of the token methods those without many passes.
    """

    model: str = "smollm2-135m"
    examples: int | None = None
    quick: bool = False
    out: Path = Path("results/attribution-agreement")
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """The prompts, other prompts of the same form, and what is judged."""

    clean: jh.Batch
    corrupt: jh.Batch
    objective: Any


def prompts(model: jh.Model, count: int, seed: int) -> Asked:
    """With an indirect object, and the same with three other names."""
    made = ioi_prompts(model.tokenizer, examples=count, seed=seed, bos=model.tokenizer.bos_token_id is not None)
    other = made.corrupted(seed + 1)
    objective = jh.logit_difference(made.indirect_object, made.subject)
    return Asked(jh.Batch(made.tokens, made.mask), jh.Batch(other.tokens, other.mask), objective)


def head_methods(model: jh.Model, asked: Asked, options: Options) -> dict[str, Callable[[], HeadTable]]:
    """By name, what gives a number for every head and example."""
    clean, corrupt, objective = asked.clean, asked.corrupt, asked.objective

    def relevance(method: Any) -> Callable[[], HeadTable]:
        def way() -> HeadTable:
            found = jh.relevance(model, clean, objective, method, steps=8).heads
            assert found is not None
            return found

        return way

    ways: dict[str, Callable[[], HeadTable]] = {
        "ablation (mean)": lambda: jh.ablate(model, clean, objective, "mean", reference=corrupt),
        "patching": lambda: jh.patch(model, clean, corrupt, objective, direction="noising"),
        "atp": lambda: jh.attribute(model, clean, corrupt, objective, "atp", direction="noising"),
        "atp*": lambda: jh.attribute(model, clean, corrupt, objective, "atp*", direction="noising"),
        "importance": lambda: jh.importance(model, clean, objective),
        "direct effect": lambda: jh.direct_effects(model, clean, objective),
    }
    if options.quick:
        del ways["atp*"]
    methods = ("attnlrp",) if options.quick else ("attnlrp", "cplrp", "gradient", "integrated-gradients")
    return ways | {f"relevance ({method})": relevance(method) for method in methods}


def numbers(table: HeadTable) -> np.ndarray:
    """`[E,L,N]` of a table's first metric."""
    assert table.per_example is not None
    each = table.per_example
    return each[0] if each.ndim == len(table.shape) + 2 else each


def timed(ways: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """What each gives, and the seconds of its second call."""
    found, seconds = {}, {}
    for name, way in ways.items():
        way()
        began = time.perf_counter()
        found[name] = way()
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
    return found, seconds


def agreement(values: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
    """One row a pair of methods: mean rank correlation of absolute values over examples with its interval, and that of
    the means. `values` are `[E,…]`."""
    rows = []
    for first, second in combinations(values, 2):
        one, other = (np.abs(values[name]).reshape(len(values[name]), -1) for name in (first, second))
        found = [rank_correlation(a, b) for a, b in zip(one, other, strict=True)]
        each = np.array([np.nan if value is None else value for value in found])
        mean, low, high = bootstrap_mean(each, seed=seed)
        of_means = rank_correlation(np.abs(values[first].mean(axis=0)), np.abs(values[second].mean(axis=0)))
        columns = {"rank_correlation": mean, "rank_correlation_low": low, "rank_correlation_high": high}
        row = {"first": first, "second": second, **{name: float(value) for name, value in columns.items()}}
        rows.append({**row, "of_means": of_means})
    return pd.DataFrame(rows)


def matrix(pairs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Square, methods in their order."""
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    found = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in pairs.to_dict("records"):
        found.loc[row["first"], row["second"]] = found.loc[row["second"], row["first"]] = row[column]
    return found


def figure(pairs: pd.DataFrame) -> Figure:
    """The matrix of heads, as numbers on colours."""
    shown = matrix(pairs, "rank_correlation")
    drawn = Figure(figsize=(8, 7), layout="constrained")
    axes = drawn.subplots()
    axes.imshow(shown.to_numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(shown)), list(shown), rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(shown)), list(shown.index), fontsize=8)
    for (row, column), value in np.ndenumerate(shown.to_numpy()):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axes.set_title("rank correlation over heads, mean over examples")
    return drawn


def page(about: Mapping[str, Any], heads: pd.DataFrame, cost: pd.DataFrame, tokens: pd.DataFrame) -> str:
    """What was found, for a reader."""
    return f"""# Which heads matter, which tokens: {about["model"]}, {about["examples"]} prompts with an indirect object

## Heads: rank correlation of absolute values, example by example, mean

{matrix(heads, "rank_correlation").to_markdown(floatfmt=".2f")}

## The same of means over examples

{matrix(heads, "of_means").to_markdown(floatfmt=".2f")}

## Cost

{cost.to_markdown(floatfmt=".3g")}

## Tokens: faithfulness beside blanking out (blank: the vocabulary's token {about["blank"]})

{tokens.reset_index().to_markdown(index=False, floatfmt=".3g")}

Intervals of all pairs are in heads.csv.
"""


def run(options: Options) -> Path:
    """Ask all, compare, write."""
    model = jh.load(options.model)
    count = options.examples or (3 if options.quick else 16)
    asked = prompts(model, count, options.seed)
    found, seconds = timed(head_methods(model, asked, options))
    values = {name: numbers(table) for name, table in found.items()}
    heads = agreement(values, options.seed)
    cost = pd.DataFrame({"seconds": seconds})
    cost["of a mean ablation"] = cost["seconds"] / seconds["ablation (mean)"]
    blank = model.tokenizer.pad_token_id or model.tokenizer.unk_token_id or 0
    chosen = ("rollout", "attnlrp", "gradient") if options.quick else TOKEN_METHODS
    tokens = jh.faithfulness(model, asked.clean, asked.objective, chosen, blank=int(blank), points=5, seed=options.seed)
    about = {
        "model": model.name, "weights": model.identity(), "examples": count, "seed": options.seed, "blank": int(blank),
        **environment(),
    }  # fmt: skip
    write_together(
        {
            options.out / "heads.csv": heads.to_csv(index=False, lineterminator="\n").encode(),
            options.out / "cost.csv": cost.to_csv(lineterminator="\n").encode(),
            options.out / "tokens.csv": tokens.frame.to_csv(lineterminator="\n").encode(),
            options.out / "summary.md": page(about, heads, cost, tokens.frame).encode(),
            options.out / "provenance.json": (json.dumps(about, indent=2) + "\n").encode(),
        }
    )
    return write_atomically(options.out / "heads.png", lambda file: figure(heads).savefig(file, format="png", dpi=80))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.attribution_agreement", description=__doc__)
    try:
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"attribution_agreement: {error}")
    print((options.out / "summary.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
