"""Data with a positional shortcut: do models that are trained on them learn anything but the shortcut?

    python -m experiments.factors [--quick] [--heads N …] [--depths L …] [--seeds N] [--steps N] [--out DIR]

A grid of small attention-only models of equal width: heads per layer × layers × data × task, several seeds each, all
trained for the same number of steps. The tasks are induction (repeated segments) and agreement (the verb takes the
number of its subject). The data of each task either leave a positional shortcut (segments of one length; no attractors)
or leave none. Every model is measured on data of its own kind, which shows whether it has learned them, and on data
without the shortcut, where its accuracy stands beside that of the shortcut alone.

The experiment was to say which factor shapes the specialisation of heads. That is withdrawn. At equal width, the number
of heads decides their size, and after equal steps both decide how far training is: the three are one factor of this
grid. To show it, the models of induction are also trained for longer. What survives compares data at equal heads,
layers and steps.

Found: see results/factors/summary.md, whose findings the run writes.

--quick, under one minute, only shows that it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import pandas as pd

import jaxheads as jh
from jaxheads.data.tasks import Agreement, Induction
from jaxheads.train import grid, scores, train

from . import lab
from .support import factors_page

WIDTH = 64
EVALUATED = 256
"""Fresh examples of each seed and kind of data."""

LONGER = 4
"""Factor on the steps of the models that show how far training was."""

SCORES = jax.jit(scores)


@dataclass(frozen=True)
class Problem:
    """A task, with data that leave no shortcut and data that do.

    Attributes:
        by_shortcut: the accuracy of the shortcut alone on data without it.
    """

    name: str
    varied: Any
    shortcut: Any
    by_shortcut: float


def same_offset(task: Induction, offset: int) -> float:
    """Return the share of scored positions whose segment has this length: the accuracy of a fixed offset."""
    scored = {period: task.length - 1 - period for period in range(task.shortest, task.longest + 1)}
    return scored[offset] / sum(scored.values())


_INDUCTION = Induction(tokens=32, shortest=4, longest=10, length=32)
_ONE_LENGTH = _INDUCTION.control()
PROBLEMS = (
    Problem("induction", _INDUCTION, _ONE_LENGTH, same_offset(_INDUCTION, _ONE_LENGTH.shortest)),
    Problem("agreement", Agreement(), Agreement(most=0), Agreement().nearest_noun),
)


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and the levels of the factors. A quick run takes a corner of the grid.

    Attributes:
        heads: heads per layer; each number divides 32, half of the width.
        depths: layers.
    """

    usual = (5, 400)
    short = (2, 3)
    out: Path = Path("results/factors")
    rate: float = 3e-3
    heads: tuple[int, ...] = (1, 4, 16)
    depths: tuple[int, ...] = (1, 2)

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if wrong := [heads for heads in self.heads if WIDTH % (2 * heads)]:  # rotary positions need pairs
            raise ValueError(f"--heads: expected divisors of {WIDTH // 2}, half of the width, got {wrong[0]}")

    @property
    def levels(self) -> tuple[Sequence[int], Sequence[int]]:
        """Heads and depths of this run."""
        return (self.heads[:2], self.depths[-1:]) if self.quick else (self.heads, self.depths)

    @property
    def problems(self) -> Sequence[Problem]:
        """The tasks of this run."""
        return PROBLEMS[:1] if self.quick else PROBLEMS


def train_cell(
    heads: int, depth: int, data: str, problem: Problem, options: Options, longer: int = 1
) -> list[dict[str, Any]]:
    """Train the models of one cell of the grid; return a row for each."""
    seeds, steps = options.trained
    steps *= longer
    config = _INDUCTION.model_config(
        n_layers=depth,
        n_heads=heads,
        d_model=WIDTH,
        vocab_size=problem.varied.vocabulary,
        max_position_embeddings=problem.varied.length,
    )
    own = problem.varied if data == "varied" else problem.shortcut
    trained = train(
        config,
        own,
        steps,
        batch=options.batch,
        init_scale=3.0,
        checkpoints=[steps],
        runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
        directory=options.unfinished / f"{problem.name}-{data}-{heads}-{depth}-{steps}",
    )
    rows = []
    for seed in range(seeds):
        network, key = trained.model(seed).network, jax.random.fold_in(jax.random.key(7), seed)
        row: dict[str, Any] = {"task": problem.name, "layers": depth, "heads": heads, "head size": WIDTH // heads}
        row |= {"data": data, "steps": steps, "seed": seed}
        for kind, task in (("own data", own), ("without shortcut", problem.varied)):
            loss, accuracy = SCORES(network, task.sample(key, EVALUATED))
            row |= {f"loss, {kind}": float(loss), f"accuracy, {kind}": float(accuracy)}
        rows.append(row)
    return rows


def run(options: Options) -> lab.Results:
    """Train and measure the whole grid, and some of it for longer."""
    heads, depths = options.levels
    rows = []
    for problem, depth, count, data in product(options.problems, depths, heads, ("varied", "shortcut")):
        rows += _reported(train_cell(count, depth, data, problem, options))
    longer = []
    for count in heads:
        longer += _reported(train_cell(count, depths[-1], "varied", options.problems[0], options, LONGER))
    runs, trained_longer = pd.DataFrame(rows), pd.DataFrame(longer)
    means, differences = factors_page.over_seeds(runs), factors_page.differences(runs)
    training = {**options.about, "evaluated": EVALUATED, "width": WIDTH, "longer": LONGER}
    by_shortcut = {problem.name: problem.by_shortcut for problem in options.problems}
    text = factors_page.page(training, by_shortcut, runs, trained_longer, means, differences)
    tables = {"runs": runs, "longer": trained_longer, "over-seeds": means, "differences": differences}
    figure = picture(runs, by_shortcut)
    return lab.Results(text, {**options.about, "evaluated": EVALUATED}, tables, {"accuracy": figure})


def _reported(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cell, accuracies = rows[0], ", ".join(f"{row['accuracy, without shortcut']:.2f}" for row in rows)
    where = f"{cell['heads']} heads × {cell['layers']} layers, {cell['steps']} steps"
    print(f"{cell['task']}, {cell['data']}: {where}: accuracy {accuracies}", flush=True)
    return rows


def picture(runs: pd.DataFrame, by_shortcut: dict[str, float]) -> "jh.plots.Picture":
    """Draw the accuracy without the shortcut of every model, a panel a task and depth, with that of the shortcut."""
    cells = list(dict.fromkeys(zip(runs["task"], runs["layers"], strict=True)))
    figure, row = jh.plots.panels(len(cells), (3.2 * len(cells), 3.5), sharey=True)
    for axes, (task, depth) in zip(row, cells, strict=True):
        for number, data in enumerate(("varied", "shortcut")):
            models: Any = runs[(runs["task"] == task) & (runs["layers"] == depth) & (runs["data"] == data)]
            color, label = jh.plots.color(number), f"trained on {data} data"
            lab.points_and_mean(axes, models, "heads", "accuracy, without shortcut", color=color, label=label)
        axes.axhline(by_shortcut[task], color="0.5", linestyle="--", linewidth=0.8, label="the shortcut alone")
        axes.set_xscale("log", base=2)
        axes.set_title(f"{task}, layers: {depth}", fontsize=9)
        axes.set_xlabel("heads a layer, of size 64 / heads")
        axes.set_ylim(0, 1.05)
    row[0].set_ylabel("accuracy without the shortcut")
    row[0].legend(fontsize=6)
    return figure


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
