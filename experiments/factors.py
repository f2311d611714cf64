"""Specialisation of heads by number of heads, depth, data and task: which factor shapes it, and do more heads help?

    python -m experiments.factors [--quick] [--heads N …] [--depths L …] [--seeds N] [--steps N] [--out DIR]

The question that this project began with. A full grid of small attention-only models of equal width: heads per layer ×
layers × data × task, several seeds each, all trained for the same number of steps. The tasks are induction (repeated
segments) and agreement (the verb takes the number of its subject). The data of each task either leave a positional
shortcut (segments of one length; no attractors) or leave none. Every model is measured on data without the shortcut:

- accuracy: on the predictions that are determined;
- specialised: the share of heads with a selectivity of at least one half (`jaxheads.evidence.specialisation` defines
  it; the null is all untrained models of the task) whose score in that function exceeds the null's 95 % quantile by
  more than a fifth of the distance from there to 1;
- alike: 1 − effective heads / heads, from 0 (all heads differ) towards 1 (all alike), mean over layers;
- needed: the fewest heads that keep 99 % of the accuracy, when heads are removed in order of their ablation effect.

An analysis of variance gives the share of each outcome's spread that is due to each factor and to each interaction of
two factors.

Found (results/factors; 72 models): accuracy depends on the task (72 % of its spread) and the data (16 %); heads and
depth explain 1 and 2 %. Data with a shortcut teach the shortcut alone: induction reaches 0.13 to 0.16 on segments of
varying length, agreement 0.78 (the nearest noun is right in 0.75). More heads at equal width did not help here.
Induction, after the same number of steps, falls from 0.80 with one head per layer to 0.73 with 4 and 0.44 with 16;
agreement is at 1.00 with any number. More heads become alike (99 % of that outcome's spread is due to the number of
heads: 16 heads differ as much as 1.3 to 3), and agreement needs half of 16 heads in one layer. The share of specialised
heads is explained least: 45 % is due to seeds and higher interactions. One layer can't do induction, but reaches 0.40
on segments this short.

Cost on 2 cores: 5 minutes; --quick, under one minute, only shows that it runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from experiments import lab
from experiments.support.marked_pairs import along
from jaxheads.data.tasks import Agreement, Induction, Sample
from jaxheads.statistics import analysis_of_variance
from jaxheads.train import Trained, grid, pruning_curve, pruning_order, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = ("heads", "depth", "data", "task")
OUTCOMES = ("accuracy", "specialised", "alike", "needed")
POSITIONAL = ("previous_token", "self_token", "first_token")
EVALUATED = 64
"""Fresh examples that models are measured on."""


@dataclass(frozen=True)
class Problem:
    """A task, with data that leave no shortcut and data that do.

    Attributes:
        functions: the measures in which heads may specialise.
    """

    name: str
    varied: Any
    shortcut: Any
    functions: tuple[str | jh.Metric, ...]


_INDUCTION = Induction(tokens=32, shortest=4, longest=10, length=32)
PROBLEMS = (
    Problem("induction", _INDUCTION, _INDUCTION.control(), (*POSITIONAL, "duplicate_token", "induction")),
    Problem("agreement", Agreement(), Agreement(most=0), (*POSITIONAL, along("agreement"))),
)


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and the levels of the factors. A quick run takes a corner of the grid.

    Attributes:
        heads: heads per layer; each number divides the width of 64.
        depths: layers.
    """

    usual = (3, 400)
    short = (2, 3)
    out: Path = Path("results/factors")
    rate: float = 3e-3
    heads: tuple[int, ...] = (1, 4, 16)
    depths: tuple[int, ...] = (1, 2)

    @property
    def levels(self) -> tuple[Sequence[int], Sequence[int]]:
        """Heads and depths of this run."""
        return (self.heads[:2], self.depths[-1:]) if self.quick else (self.heads, self.depths)

    @property
    def problems(self) -> Sequence[Problem]:
        """The tasks of this run."""
        return PROBLEMS[:1] if self.quick else PROBLEMS


@dataclass(frozen=True)
class Cell:
    """One cell of the grid, with the measures of its models.

    Attributes:
        rows: numbers of each model.
        scores: scores of each model's heads by function, `[E,L,N]`.
        untrained: scores of the models before training by function, means over examples, `[R,L,N]`.
    """

    heads: int
    depth: int
    data: str
    problem: Problem
    rows: tuple[dict[str, float], ...]
    scores: tuple[dict[str, np.ndarray], ...]
    untrained: dict[str, np.ndarray]


def function_scores(model: jh.Model, sample: Sample, problem: Problem) -> dict[str, np.ndarray]:
    """Return every head's score in each function, example by example, `[E,L,N]`."""
    table = jh.measure(model, sample.batch, problem.functions)
    assert table.per_example is not None
    return dict(zip(table.metrics, table.per_example, strict=True))


def needed(model: jh.Model, sample: Sample) -> int:
    """Return the fewest heads that keep 99 % of the accuracy."""
    return needed_by(pruning_curve(model.network, sample, pruning_order(model.network, sample, "ablation")))


def needed_by(curve: pd.DataFrame) -> int:
    """Return the fewest heads that keep 99 % of the accuracy, from the accuracies as heads are removed."""
    enough = curve["accuracy"].to_numpy() >= 0.99 * curve["accuracy"].iloc[0]
    removed = len(curve) - 1 if enough.all() else int(np.flatnonzero(~enough)[0]) - 1
    return len(curve) - 1 - removed


def alike(model: jh.Model, sample: Sample, heads: int) -> float:
    """Return 1 − effective heads / heads, by the heads' patterns; 0 for a single head."""
    if heads == 1:
        return 0.0
    return float(1 - jh.compare_heads(model, sample.batch.take(np.arange(8)), "js").effective_heads().mean() / heads)


def train_cell(heads: int, depth: int, data: str, problem: Problem, options: Options) -> Cell:
    """Train the models of one cell and measure them."""
    seeds, steps = options.trained
    config = _INDUCTION.model_config(
        n_layers=depth,
        n_heads=heads,
        vocab_size=problem.varied.vocabulary,
        max_position_embeddings=problem.varied.length,
    )
    trained = train(
        config,
        problem.varied if data == "varied" else problem.shortcut,
        steps,
        batch=options.batch,
        init_scale=3.0,
        checkpoints=[0, steps],
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
    )
    sample = problem.varied.sample(jax.random.key(7), EVALUATED)
    rows, scores = [], []
    for seed in range(seeds):
        model = trained.model(seed)
        whole = pruning_curve(model.network, sample, []).iloc[0]
        row = {"seed": seed, "loss": float(whole["loss"]), "accuracy": float(whole["accuracy"])}
        rows.append({**row, "alike": alike(model, sample, heads), "needed": needed(model, sample)})
        scores.append(function_scores(model, sample, problem))
    untrained = untrained_scores(trained, sample, problem, seeds)
    return Cell(heads, depth, data, problem, tuple(rows), tuple(scores), untrained)


def untrained_scores(trained: Trained, sample: Sample, problem: Problem, seeds: int) -> dict[str, np.ndarray]:
    """Return the heads' scores before training by function, means over examples, `[R,L,N]`."""
    runs = [function_scores(trained.model(seed, 0), sample, problem) for seed in range(seeds)]
    return {name: np.stack([np.nanmean(run[name], axis=0) for run in runs]) for name in runs[0]}


def specialised(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a row for each model: its numbers, its share of specialised heads, and their functions."""
    rows = []
    for cell in cells:
        same_task = [other.untrained for other in cells if other.problem is cell.problem]
        nulls = {name: [mean[None] for untrained in same_task for mean in untrained[name]] for name in same_task[0]}
        thresholds = {
            name: _threshold(np.concatenate([mean.reshape(-1) for mean in null])) for name, null in nulls.items()
        }
        for numbers, scores in zip(cell.rows, cell.scores, strict=True):
            heads: Any = jh.specialisation(scores, nulls, resamples=0).heads.frame
            means = {name: np.nanmean(values, axis=0).reshape(-1) for name, values in scores.items()}
            strong = [name != "" and means[name][n] > thresholds[name] for n, name in enumerate(heads["function"])]
            selective = (heads["selectivity"] >= 0.5).to_numpy() & np.array(strong)
            functions = sorted(set(heads.loc[selective, "function"].tolist()))
            levels = {"heads": cell.heads, "depth": cell.depth, "data": cell.data, "task": cell.problem.name}
            shares = {"specialised": float(selective.mean()), "functions": ", ".join(functions)}
            rows.append({**levels, **numbers, **shares})
    return pd.DataFrame(rows)


def _threshold(null: np.ndarray) -> float:
    """Return the null's 95 % quantile, plus a fifth of the distance from there to 1."""
    chance = float(np.quantile(null, 0.95))
    return chance + 0.2 * (1 - chance)


def run(options: Options) -> lab.Results:
    """Train and measure the whole grid, then analyse its variance."""
    heads, depths = options.levels
    cells = []
    for problem, count, depth, data in product(options.problems, heads, depths, ("varied", "shortcut")):
        cells.append(train_cell(count, depth, data, problem, options))
        accuracies = ", ".join(f"{row['accuracy']:.2f}" for row in cells[-1].rows)
        print(f"{problem.name}, {data}: {count} heads × {depth} layers: accuracy {accuracies}", flush=True)
    runs = specialised(cells)
    variance = pd.concat(analyse(runs, options), ignore_index=True)
    tables = {"runs": runs, "variance": variance}
    return lab.Results(page(options, runs, variance), options.about, tables, {"heads": picture(runs)})


def analyse(runs: pd.DataFrame, options: Options) -> Iterator[pd.DataFrame]:
    """Yield the analysis of variance of each outcome; factors with a single level are left out."""
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


def picture(runs: pd.DataFrame) -> "Figure":
    """Draw each outcome by the number of heads, on data without the shortcut: a line for each task and depth."""
    figure, row = lab.panels(len(OUTCOMES), (3.2 * len(OUTCOMES), 3.5))
    varied: Any = runs[runs["data"] == "varied"]
    for axes, outcome in zip(row, OUTCOMES, strict=True):
        for number, (task, depth) in enumerate(product(sorted(set(varied["task"])), sorted(set(varied["depth"])))):
            models = varied[(varied["task"] == task) & (varied["depth"] == depth)]
            lab.points_and_mean(axes, models, "heads", outcome, color=f"C{number}", label=f"{task}, {depth} layers")
        axes.set_xscale("log", base=2)
        axes.set_title(outcome, fontsize=9)
        axes.set_xlabel("heads a layer")
    row[0].legend(fontsize=6)
    return figure


def page(options: Options, runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    """Return the page for readers."""
    seeds, steps = options.trained
    shares = variance.pivot(index="effect", columns="outcome", values="share").reindex(
        index=list(dict.fromkeys(variance["effect"])), columns=list(OUTCOMES)
    )
    p = variance.pivot(index="effect", columns="outcome", values="p").reindex_like(shares)
    table = shares.map(lambda value: f"{value:.0%}") + p.map(lambda value: "*" if value < 0.001 else "")
    groups = [_row(key, group) for key, group in runs.groupby(["task", "data", "depth", "heads"], sort=False)]
    heads, depths = options.levels
    return f"""# Which factors shape specialisation

Attention-only models of width 64; {seeds} seeds for each cell of the grid, {steps} training steps of {options.batch}
examples. Measured on {EVALUATED} fresh examples of the data without a shortcut. {len(runs)} models.

## Analysis of variance

The share of each outcome's spread (sum of squares) that is due to each factor and to each interaction of two factors;
`*`: p < 0.001. The residual holds seeds and higher interactions. Levels: heads {list(heads)}; depth {list(depths)};
data varied, shortcut; task {", ".join(problem.name for problem in options.problems)}.

{lab.markdown(table)}

## What more heads buy

Means over seeds; accuracy with Student's interval. `functions`: the functions in which any head of any seed is
specialised.

{pd.DataFrame(groups).to_markdown(index=False)}
"""


def _row(key: Any, group: Any) -> dict[str, Any]:
    functions = sorted({name for names in group["functions"] for name in names.split(", ") if name})
    return {
        **dict(zip(("task", "data", "layers", "heads"), key, strict=True)),
        "accuracy": lab.with_interval(group["accuracy"].to_numpy()),
        "loss": f"{group['loss'].mean():.3f}",
        **{name: f"{group[name].mean():.2f}" for name in OUTCOMES[1:]},
        "functions": ", ".join(functions),
    }


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
