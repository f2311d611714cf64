"""Induction heads: do they form in a phase change, after a previous-token head, and does this pair compose most?

    python -m experiments.induction_phase_change [--quick] [--seeds N] [--steps N] [--out DIR]

After Olsson et al. 2022 (arXiv 2209.11895) and Elhage et al. 2021, on repeated segments of random length. Two layers of
attention alone are compared with one layer, and with two layers trained on segments of a single length (a positional
shortcut). Several seeds of each are trained together. Every head's previous-token and induction scores are measured at
checkpoints, in two layers at every step from 100 to 400, where they learn; at the end also the loss without heads, and
the K-composition of all pairs from the weights. The best heads are chosen on fresh segments, and reported on others. An
order of two onsets is claimed only where their difference, seed by seed, is further from 0 than the checkpoints are
from each other, with its whole interval.

Expected: one layer never forms induction, two layers always do; the previous-token head comes before the induction
head; of all pairs of heads this pair composes most through keys; without either head the loss returns to ln S, the loss
of a model that knows only which tokens the segment has; and a model trained on one length fails on others.

Found (results/induction-phase-change/summary.md; 8 seeds): one layer does not form induction, two layers do in every
seed, and one length is a shortcut. Three expectations failed. At a tenth and at a quarter of the way no order of the
previous-token and the induction head is shown; at half of the way induction is first, for the previous-token head goes
on sharpening. The pair that was chosen composes most of all pairs in 2 of 8 seeds. Without the best induction head
little happens, for all four heads of its layer do induction; without all of them the loss is far above ln S, for the
model is then sure of wrong tokens. That the loss is half-way before the induction score is also an effect of
thresholds: the loss begins to fall before any head has a skill.

Cost: about 9 minutes of processor time; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data.tasks import Induction, Sample
from jaxheads.measure.patterns import resolve
from jaxheads.train import (
    Network,
    Trace,
    Trained,
    evolution,
    grid,
    head_scores,
    log_spaced,
    onset,
    scores,
    trace,
    train,
)

from . import lab
from .support import induction_phase_change_page as page_tables

SKILLS = ("previous_token", "induction")
EVALUATED = 64
"""Fresh examples that everything is reported on; as many others choose the heads."""

SIMILAR = 0.5
"""The share of the best head's score from which on a head counts as a head of that skill."""

SHARES = (0.1, 0.25, 0.5)
"""Thresholds of an onset, as shares of the way to the best value."""

DENSE = range(100, 401)
"""Steps that are all measured: onsets can't be told apart below the spacing of checkpoints."""

LASTING = 5
"""Checkpoints for which a curve must stay above an onset's threshold."""

ORDERS = (
    *((f"previous_token {share:.0%}", f"induction {share:.0%}") for share in SHARES),
    ("previous_token 10%", "induction 50%"),
    ("induction 50%", "loss 50%"),
)
"""Pairs of onsets whose order is asked for."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options of the training."""

    usual = (8, 700)
    short = (2, 30)
    out: Path = Path("results/induction-phase-change")
    rate: float = 3e-3


@dataclass(frozen=True)
class Variant:
    """One condition: a depth and the task that its models are trained on."""

    name: str
    layers: int
    task: Induction


VARIANTS = (
    Variant("two layers", 2, Induction()),
    Variant("one layer", 1, Induction()),
    Variant("two layers, one length", 2, Induction().control()),
)


def fresh_segments(key: int = 12345) -> Sample:
    """Return fresh examples, the same for all models, with segments of random length."""
    return Induction().sample(jax.random.key(key), EVALUATED)


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of one condition at its checkpoints.

    Attributes:
        reported: the heads' scores, the loss and the accuracy.
        choosing: the heads' scores on other examples.
    """

    reported: Trace
    choosing: Trace

    @property
    def swapped(self) -> "Measured":
        """The numbers with the examples' roles exchanged."""
        return Measured(self.choosing, self.reported)

    def best_head(self, skill: str) -> np.ndarray:
        """Return each run's best head on the choosing examples at the end, as (layer, head), `[R,2]`."""
        return self.choosing.best_head(skill)

    def best(self, skill: str) -> np.ndarray:
        """Return at each checkpoint the reported score of the head that is then the best on the others, `[C,R]`."""
        choosing, reported = (of.values[skill].reshape(*of.values[skill].shape[:2], -1) for of in self._both)
        return np.take_along_axis(reported, choosing.argmax(axis=2)[..., None], axis=2)[..., 0]

    @property
    def _both(self) -> tuple[Trace, Trace]:
        return self.choosing, self.reported

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """The loss, and the best head's score in each skill, `[C,R]`."""
        return {"loss": self.reported.values["loss"], **{skill: self.best(skill) for skill in SKILLS}}


def measure_checkpoints(trained: Trained) -> Measured:
    """Return the heads' scores, the loss and the accuracy at every checkpoint."""
    metrics = resolve(SKILLS)

    def measured(sample: Sample) -> Trace:
        def numbers(network: Network) -> dict[str, jax.Array]:
            loss, accuracy = scores(network, sample)
            return {**head_scores(network, sample.batch, metrics), "loss": loss, "accuracy": accuracy}

        return trace(trained.runs, trained.steps, trained.trajectory, numbers)

    return Measured(measured(fresh_segments()), measured(fresh_segments(54321)))


def key_composition(model: jh.Model, early: tuple[int, int], late: tuple[int, int]) -> tuple[float, int, float]:
    """Return the K-composition of a pair, its rank among all pairs (1 is the largest), and the mean of random pairs."""
    composition = jh.composition(model, "k")
    values = composition.values["k"]
    value = values[(*early, *late)]
    return float(value), int((values > value).sum()) + 1, composition.random[0]


def loss_without(model: jh.Model, heads: list[tuple[int, int]]) -> float:
    """Return the loss with these heads' outputs set to zero."""
    return float(scores(model.network, fresh_segments(), (jh.zero_heads(model, heads),))[0])


def row_of_run(variant: Variant, trained: Trained, measured: Measured, run: int) -> dict[str, Any]:
    """Return the numbers of one condition and seed; its heads are chosen on other examples than these."""
    first, last = ({name: value[at, run] for name, value in measured.reported.values.items()} for at in (0, -1))
    row: dict[str, Any] = {"condition": variant.name, "seed": trained.runs.hyper[run]["seed"]}
    row |= {"loss": float(last["loss"]), "accuracy": float(last["accuracy"])}
    model, best = trained.model(run), {}
    for skill in SKILLS:
        chosen = measured.choosing.values[skill][-1, run]
        layer, head = best[skill] = tuple(measured.best_head(skill)[run].tolist())
        row |= {skill: float(last[skill][layer, head]), f"{skill} untrained": float(first[skill][layer, head])}
        row[f"{skill} head"] = f"L{layer}H{head}"
        similar: Any = list(map(tuple, np.argwhere(chosen >= SIMILAR * chosen.max()).tolist()))
        row[f"without {skill} head"] = loss_without(model, [(layer, head)])
        row[f"such {skill} heads"], row[f"without all {skill} heads"] = len(similar), loss_without(model, similar)
    early, late = best["previous_token"], best["induction"]
    if early[0] < late[0]:
        row["K-composition"], row["its rank"], row["random"] = key_composition(model, early, late)
        row["copying"] = float(jh.eigenvalue_copying(model).values[late])
    return row


def run(options: Options) -> lab.Results:
    """Train all conditions and measure their checkpoints."""
    seeds, steps = options.trained
    rows, figures, onsets = [], {}, []
    anchors = dict(Induction().anchors)
    for variant in VARIANTS:
        trained = train(
            variant.task.model_config(n_layers=variant.layers),
            variant.task,
            steps,
            runs=grid(range(seeds), rate=[options.rate]),
            batch=options.batch,
            init_scale=3.0,
            progress=True,
            checkpoints=checkpoints(steps, dense=variant is VARIANTS[0]),
            directory=options.unfinished / lab.file_name(variant.name),
        )
        measured = measure_checkpoints(trained)
        rows += [row_of_run(variant, trained, measured, run) for run in range(seeds)]
        onsets.append(skill_onsets(variant, measured))
        figures[lab.file_name(variant.name)] = evolution(
            trained.steps, measured.curves, lines={"loss": anchors}, onsets={}, together=[["loss"], list(SKILLS)]
        )
        if variant is VARIANTS[0]:
            figures["transition"] = transition(measured)
        print(f"{variant.name}: {measured.curves['loss'][-1].round(3).tolist()}", flush=True)
    runs, when = pd.DataFrame(rows), pd.concat(onsets, ignore_index=True)
    means, orders = page_tables.over_seeds(runs), page_tables.orders(when, ORDERS)
    training = {"seeds": seeds, "steps": steps, "batch": options.batch, "rate": options.rate, "evaluated": EVALUATED}
    text = page_tables.page(training, anchors, SIMILAR, runs, means, when, orders)
    tables = {"runs": runs, "onsets": when, "orders": orders, "over-seeds": means}
    return lab.Results(text, options.about, tables, figures)


def checkpoints(steps: int, *, dense: bool) -> tuple[int, ...]:
    """Return the steps that are measured: log-spaced ones and, if dense, all steps of the transition."""
    return tuple(sorted({*log_spaced(steps, 60), *(step for step in DENSE if dense and step <= steps)}))


def skill_onsets(variant: Variant, measured: Measured) -> pd.DataFrame:
    """Return a row for each seed: the step of each onset, the spacing of checkpoints there, and the examples' share.

    The last is the distance to the onset with the examples' roles exchanged.
    """
    columns: dict[str, Any] = {"condition": variant.name, "seed": range(measured.curves["loss"].shape[1])}
    steps = measured.reported.steps
    again = _onsets(measured.swapped)
    for name, onset_R in _onsets(measured).items():
        columns |= {name: onset_R, f"{name} spacing": spacing(steps, onset_R)}
        columns[f"{name} examples"] = np.abs(onset_R - again[name])
    return pd.DataFrame(columns)


def _onsets(measured: Measured) -> dict[str, np.ndarray]:
    curves, steps = measured.curves, measured.reported.steps
    onsets = {
        f"{skill} {share:.0%}": onset(steps, curves[skill], share=share, least=0.3, lasting=LASTING)
        for skill in SKILLS
        for share in SHARES
    }
    # In all conditions the loss falls at first; only the fall below the anchor is that of a skill.
    learned = measured.curves["loss"][-1] < Induction().anchors["seen"] / 2
    falls = onset(steps, -curves["loss"], share=0.5, lasting=LASTING)
    return {**onsets, "loss 50%": np.where(learned, falls, np.nan)}


def spacing(steps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the distance between the checkpoints about each step; NaN for none."""
    after = np.clip(np.searchsorted(steps, np.nan_to_num(at)), 1, len(steps) - 1)
    return np.where(np.isnan(at), np.nan, steps[after] - steps[after - 1])


def transition(measured: Measured) -> Any:
    """Draw loss and scores at the steps that are all measured, a thin line a seed and a thick one for the median."""
    figure, (left, right) = jh.plots.panels(2, (9, 3.5))
    steps = measured.reported.steps
    inside = (steps >= DENSE[0]) & (steps <= DENSE[-1])
    for number, (name, curve) in enumerate(measured.curves.items()):
        axes = left if name == "loss" else right
        jh.plots.draw_runs(axes, steps[inside], curve[inside], label=name, number=number)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    return figure


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
