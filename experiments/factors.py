"""Which factors shape specialisation: heads, depth, data or task? And what do more heads buy?

    python -m experiments.factors [--quick] [--heads N …] [--depths L …] [--seeds N] [--steps N] [--out DIR]

The question that this project began with. A full grid of small attention-only models of one width: heads a layer ×
layers × data × task, several seeds each, trained for equally many steps. The tasks are induction (repeated segments)
and agreement (the verb's number is the subject's); the data of each either leave a positional shortcut (segments of one
length; no attractors) or do not. Every model is then measured on data without the shortcut:

- accuracy: of what is determined;
- specialised: the share of heads with a selectivity of at least a half (what that means is defined in
  `jaxheads.evidence.specialisation`; the null is all untrained models of the task), whose score in that function is
  more than a fifth of what the null leaves open beyond it;
- alike: 1 − effective heads / heads, from 0 (no two look alike) towards 1 (all alike), mean over layers;
- needed: the fewest heads that keep 99 % of the accuracy, taken away in order of what each costs by itself.

An analysis of variance says how much of each outcome's spread is due to which factor, with all interactions of two.

Found (results/factors; 72 models): what a model can do is the task's (72 % of the spread of accuracy) and the data's
(16 %); heads and depth have 1 and 2 %. Data with a shortcut leave exactly that: induction at 0.13 to 0.16 where
segments vary, agreement at 0.78 (the nearest noun is right in 0.75). More heads of the same width bought nothing here.
Induction, after equally many steps, goes from 0.80 with one head a layer over 0.73 with 4 to 0.44 with 16; agreement is
at 1.00 with any. They become alike instead (99 % of that spread is the number of heads': 16 heads are as different
as 1.3 to 3), and of 16 in one layer agreement needs half. Which share is specialised is the outcome least explained:
45 % is seeds' and higher interactions'. One layer does not do induction but gets to 0.40 with segments this short.

Cost on 2 cores: 5 minutes; --quick, under one, only shows that it runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxheads as jh
from experiments.lab import command_line, publish
from jaxheads.data.tasks import Agreement, Induction, Sample
from jaxheads.data.tasks.configs import attention_only
from jaxheads.measure.patterns import Example, Metric, Scored, attention_to
from jaxheads.statistics import analysis_of_variance, t_mean
from jaxheads.train import Trained, grid, pruning_curve, pruning_order, train

FACTORS = ("heads", "depth", "data", "task")
OUTCOMES = ("accuracy", "specialised", "alike", "needed")
POSITIONAL = ("previous_token", "self_token", "first_token")
EVALUATED = 64
"""Fresh examples that models are measured on."""


def _to(pattern_TS: jax.Array, example: Example, mark: str) -> Scored:
    return attention_to(pattern_TS, example.mark(mark) > 0)


def to(mark: str) -> Metric:
    """Attention along a mark of pairs."""
    return Metric(f"to_{mark}", _to, (("mark", mark),), marks=(mark,))


@dataclass(frozen=True)
class Problem:
    """A task, with data that leave no shortcut and data that do.

    Attributes:
        functions: what heads are measured for.
    """

    name: str
    varied: Any
    shortcut: Any
    functions: tuple[str | Metric, ...]


_INDUCTION = Induction(tokens=32, shortest=4, longest=10, length=32)
PROBLEMS = (
    Problem("induction", _INDUCTION, _INDUCTION.control(), (*POSITIONAL, "duplicate_token", "induction")),
    Problem("agreement", Agreement(), Agreement(most=0), (*POSITIONAL, to("agreement"))),
)


@dataclass(frozen=True)
class Options:
    """What is trained.

    Attributes:
        quick: a corner of the grid, few steps.
        heads: a layer; each divides the width of 64.
        depths: layers.
        seeds, steps: how many; 3 and 400 when left out.
    """

    quick: bool = False
    heads: tuple[int, ...] = (1, 4, 16)
    depths: tuple[int, ...] = (1, 2)
    seeds: int | None = None
    steps: int | None = None
    batch: int = 32
    rate: float = 3e-3
    out: Path = Path("results/factors")

    @property
    def trained(self) -> tuple[int, int]:
        """Seeds and steps."""
        return self.seeds or (2 if self.quick else 3), self.steps or (3 if self.quick else 400)

    @property
    def levels(self) -> tuple[Sequence[int], Sequence[int]]:
        """Heads and depths."""
        return (self.heads[:2], self.depths[-1:]) if self.quick else (self.heads, self.depths)

    @property
    def problems(self) -> Sequence["Problem"]:
        """The tasks."""
        return PROBLEMS[:1] if self.quick else PROBLEMS


@dataclass(frozen=True)
class Cell:
    """One cell of the grid, and what was measured of its models.

    Attributes:
        scores: a run each: by function `[E,L,N]`.
        untrained: by function `[R,L,N]`, means of the models before they were trained.
    """

    heads: int
    depth: int
    data: str
    problem: Problem
    rows: tuple[dict[str, float], ...]
    scores: tuple[dict[str, np.ndarray], ...]
    untrained: dict[str, np.ndarray]


def functions_of(model: jh.Model, sample: Sample, problem: Problem) -> dict[str, np.ndarray]:
    """Every head's scores, example by example, `[E,L,N]`."""
    table = jh.measure(model, sample.batch, problem.functions)
    assert table.per_example is not None
    return dict(zip(table.metrics, table.per_example, strict=True))


def needed(model: jh.Model, sample: Sample) -> int:
    """The fewest heads that keep 99 % of the accuracy."""
    return needed_by(pruning_curve(model.network, sample, pruning_order(model.network, sample, "ablation")))


def needed_by(curve: pd.DataFrame) -> int:
    """Read off the accuracy as head after head is taken away."""
    kept = curve["accuracy"].to_numpy() >= 0.99 * curve["accuracy"].iloc[0]
    away = int(np.flatnonzero(~kept)[0]) - 1 if not kept.all() else len(curve) - 1
    return len(curve) - 1 - away


def alike(model: jh.Model, sample: Sample, heads: int) -> float:
    """1 − effective heads / heads, by their patterns; 0 for a single one."""
    if heads == 1:
        return 0.0
    return float(1 - jh.compare_heads(model, sample.batch.take(np.arange(8)), "js").effective_heads().mean() / heads)


def cell(heads: int, depth: int, data: str, problem: Problem, options: Options) -> Cell:
    """Train a cell's models and measure them."""
    seeds, steps = options.trained
    task = problem.varied if data == "varied" else problem.shortcut
    vocabulary, length = problem.varied.vocabulary, problem.varied.length
    made = train(
        attention_only(vocabulary, length, {"n_layers": depth, "n_heads": heads}), task, steps, batch=options.batch,
        init_scale=3.0, checkpoints=[0, steps], runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
    )  # fmt: skip
    sample = problem.varied.sample(jax.random.key(7), EVALUATED)
    rows, scores = [], []
    for run in range(seeds):
        model = made.model(run)
        curve = pruning_curve(model.network, sample, [])
        scores.append(functions_of(model, sample, problem))
        rows.append(
            {"seed": run, "loss": float(curve["loss"].iloc[0]), "accuracy": float(curve["accuracy"].iloc[0]),
             "alike": alike(model, sample, heads), "needed": needed(model, sample)}
        )  # fmt: skip
    return Cell(heads, depth, data, problem, tuple(rows), tuple(scores), _untrained(made, sample, problem, seeds))


def _untrained(made: Trained, sample: Sample, problem: Problem, seeds: int) -> dict[str, np.ndarray]:
    each = [functions_of(made.model(run, 0), sample, problem) for run in range(seeds)]
    return {name: np.stack([np.nanmean(one[name], axis=0) for one in each]) for name in each[0]}


def specialised(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a model: what was measured, and its share of specialised heads with the functions that they have."""
    rows = []
    for one in cells:
        pool = [other.untrained for other in cells if other.problem is one.problem]
        nulls = {name: np.concatenate([part[name].reshape(-1) for part in pool])[None] for name in pool[0]}
        for row, scores in zip(one.rows, one.scores, strict=True):
            found: Any = jh.specialisation(scores, nulls, resamples=0).heads.frame
            floors = {name: _floor(null) for name, null in nulls.items()}
            means = {name: np.nanmean(values, axis=0).reshape(-1) for name, values in scores.items()}
            reaches = [name != "" and means[name][n] > floors[name] for n, name in enumerate(found["function"])]
            selective = (found["selectivity"] >= 0.5).to_numpy() & np.array(reaches)
            functions = sorted(set(found.loc[selective, "function"].tolist()))
            rows.append(
                {"heads": one.heads, "depth": one.depth, "data": one.data, "task": one.problem.name, **row,
                 "specialised": float(selective.mean()), "functions": ", ".join(functions)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _floor(null: np.ndarray) -> float:
    """What only a twentieth of the null's heads exceed, and a fifth of the way from there to 1."""
    chance = float(np.quantile(null, 0.95))
    return chance + 0.2 * (1 - chance)


def run(options: Options) -> None:
    """The whole grid; analyse, write."""
    heads, depths = options.levels
    cells = []
    for problem, count, depth, data in product(options.problems, heads, depths, ("varied", "shortcut")):
        cells.append(cell(count, depth, data, problem, options))
        told = ", ".join(f"{row['accuracy']:.2f}" for row in cells[-1].rows)
        print(f"{problem.name}, {data}: {count} heads × {depth} layers: accuracy {told}", flush=True)
    runs = specialised(cells)
    variance = pd.concat(analysed(runs, options), ignore_index=True)
    seeds, steps = options.trained
    about = {"seeds": seeds, "steps": steps, "batch": options.batch, "rate": options.rate}
    publish(
        options.out, page(options, runs, variance), about, {"runs": runs, "variance": variance},
        {"heads": picture(runs)},
    )  # fmt: skip


def analysed(runs: pd.DataFrame, options: Options) -> Iterator[pd.DataFrame]:
    """The analysis of variance of each outcome; factors of one level are left out."""
    heads, depths = options.levels
    sizes = {"heads": len(heads), "depth": len(depths), "data": 2, "task": len(options.problems)}
    seeds, _ = options.trained
    ordered = runs.sort_values([*FACTORS, "seed"])
    for outcome in OUTCOMES:
        values = ordered[outcome].to_numpy(float).reshape(*sizes.values(), seeds)
        names = [name for name in FACTORS if sizes[name] > 1]
        values = values.reshape(*(sizes[name] for name in names), seeds)
        table = analysis_of_variance(values, names).reset_index()
        table.insert(0, "outcome", outcome)
        yield table


def picture(runs: pd.DataFrame) -> Figure:
    """Each outcome by the number of heads: a line a task and depth, data without the shortcut."""
    figure = Figure(figsize=(3.2 * len(OUTCOMES), 3.5), layout="constrained")
    own: Any = runs[runs["data"] == "varied"]
    for panel, outcome in zip(figure.subplots(1, len(OUTCOMES)), OUTCOMES, strict=True):
        for number, (task, depth) in enumerate(product(sorted(set(own["task"])), sorted(set(own["depth"])))):
            some = own[(own["task"] == task) & (own["depth"] == depth)]
            panel.scatter(some["heads"], some[outcome], s=8, color=f"C{number}", alpha=0.5)
            mean = some.groupby("heads")[outcome].mean()
            panel.plot(mean.index, mean, color=f"C{number}", label=f"{task}, {depth} layers")
        panel.set_xscale("log", base=2)
        panel.set_title(outcome, fontsize=9)
        panel.set_xlabel("heads a layer")
    figure.axes[0].legend(fontsize=6)
    return figure


def page(options: Options, runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    """What was found, for a reader."""
    seeds, steps = options.trained
    shares = variance.pivot(index="effect", columns="outcome", values="share").reindex(
        index=list(dict.fromkeys(variance["effect"])), columns=list(OUTCOMES)
    )
    p = variance.pivot(index="effect", columns="outcome", values="p").reindex_like(shares)
    told = shares.map(lambda value: f"{value:.0%}")
    sure = p.map(lambda value: "*" if value < 0.001 else "")
    table = (told + sure).reset_index().to_markdown(index=False)
    buys = [_row(key, own) for key, own in runs.groupby(["task", "data", "depth", "heads"], sort=False)]
    return f"""# Which factors shape specialisation

Attention-only models, width 64, {seeds} seeds a cell, {steps} steps of {options.batch} examples; measured on
{EVALUATED} fresh examples of the data without a shortcut. {len(runs)} models.

## Analysis of variance

The share of each outcome's spread (sum of squares) that is due to each factor and to interactions of two; `*`:
p < 0.001. The residual holds seeds and higher interactions. {"; ".join(_levels(options))}.

{table}

## What more heads buy

Means over seeds; accuracy with Student's interval. `functions`: those that some head is specialised in, in any seed.

{pd.DataFrame(buys).to_markdown(index=False)}
"""


def _levels(options: Options) -> list[str]:
    heads, depths = options.levels
    return [f"heads: {list(heads)}", f"depth: {list(depths)}", "data: varied, shortcut", "task: induction, agreement"]


def _row(key: Any, own: Any) -> dict[str, Any]:
    mean, low, high = map(float, t_mean(own["accuracy"].to_numpy(float)))
    functions = sorted({name for names in own["functions"] for name in names.split(", ") if name})
    return {
        **dict(zip(("task", "data", "layers", "heads"), key, strict=True)),
        "accuracy": f"{mean:.2f} [{low:.2f}, {high:.2f}]",
        "loss": f"{own['loss'].mean():.3f}",
        **{name: f"{own[name].mean():.2f}" for name in OUTCOMES[1:]},
        "functions": ", ".join(functions),
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("factors", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
