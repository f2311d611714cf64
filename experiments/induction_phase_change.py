"""Formation of induction heads: a phase change, a previous-token head before it, and the pair that composes.

    python -m experiments.induction_phase_change [--quick] [--seeds N] [--steps N] [--out DIR]

After Olsson et al. 2022 (arXiv 2209.11895) and Elhage et al. 2021, on repeated segments of random length. Two layers of
attention alone are compared with one layer, and with two layers trained on segments of a single length (a positional
shortcut). Several seeds of each are trained together. At log-spaced checkpoints every head's previous-token and
induction scores are measured on fresh segments; at the end also the loss without heads, and the K-composition of all
pairs from the weights.

Expected: one layer never forms induction, two layers always do; the previous-token head comes before the induction
head; of all pairs of heads this pair composes most through keys; without either head the loss returns to ln S, the loss
of a model that knows only which tokens the segment has; and a model trained on one length fails on others.

Found (results/induction-phase-change; 5 seeds): one layer stays at 2.73 to 2.78 nats (ln S is 2.69). Two layers end at
0.000 to 0.004 with an induction head of 0.98 to 0.99 in every seed, and the pair composes most of all pairs through
keys in 4 of 5. Models trained on one length have 12.8 to 16.2 nats on random ones. Two expectations failed. The order
depends on the threshold of an onset: at a tenth of the way to its best score the previous-token head is first in 4 of 5
seeds, by 2 to 5 steps of about 170; at half of the way in none, for it goes on sharpening after induction works. And
without the best induction head nothing happens (0.007 to 0.024): all four heads of the layer do induction. Without all
of them the loss is 7.1 to 7.6, above ln S, for the model is then sure of wrong tokens; without the previous-token
heads, one or two of them, it is 8.1 to 11.6.

Cost on 2 cores: about 4 minutes; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from experiments import lab
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
    order,
    phase_change,
    scores,
    trace,
    train,
)

SKILLS = ("previous_token", "induction")
EVALUATED = 64
"""Fresh examples that checkpoints are measured on."""

SIMILAR = 0.5
"""The share of the best head's score from which on a head counts as a head of that skill."""

SHARES = (0.1, 0.5)
"""Thresholds of an onset, as shares of the way to the best score."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options of the training."""

    usual = (5, 1000)
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


def fresh_segments() -> Sample:
    """Return the examples that all models are measured on, with segments of random length."""
    return Induction().sample(jax.random.key(12345), EVALUATED)


def measure_checkpoints(trained: Trained) -> Trace:
    """Return the heads' scores, the loss and the accuracy at every checkpoint."""
    sample = fresh_segments()
    metrics = resolve(SKILLS)

    def numbers(network: Network) -> dict[str, jax.Array]:
        loss, accuracy = scores(network, sample)
        return {**head_scores(network, sample.batch, metrics), "loss": loss, "accuracy": accuracy}

    return trace(trained.runs, trained.steps, trained.trajectory, numbers)


def key_composition(model: jh.Model, early: tuple[int, int], late: tuple[int, int]) -> tuple[float, int, float]:
    """Return the K-composition of a pair, its rank among all pairs (1 is the largest), and the mean of random pairs."""
    composition = jh.composition(model, "k")
    values = composition.values["k"]
    value = values[(*early, *late)]
    return float(value), int((values > value).sum()) + 1, composition.random[0]


def loss_without(model: jh.Model, heads: list[tuple[int, int]]) -> float:
    """Return the loss with these heads' outputs set to zero."""
    return float(scores(model.network, fresh_segments(), (jh.zero_heads(model, heads),))[0])


def row_of_run(variant: Variant, trained: Trained, measured: Trace, run: int) -> dict[str, Any]:
    """Return the numbers of one condition and seed."""
    last = {name: value[-1, run] for name, value in measured.values.items()}
    curve = trained.curve[(trained.curve["run"] == run) & (trained.curve["step"] >= trained.steps[-1] - 20)]
    row: dict[str, Any] = {"condition": variant.name, "seed": trained.runs.hyper[run]["seed"]}
    row |= {"trained loss": curve["loss"].mean(), "loss": float(last["loss"]), "accuracy": float(last["accuracy"])}
    model, best = trained.model(run), {}
    for skill in SKILLS:
        layer, head = best[skill] = tuple(measured.best_head(skill)[run].tolist())
        row |= {skill: float(last[skill][layer, head]), f"{skill} head": f"L{layer}H{head}"}
        similar: Any = list(map(tuple, np.argwhere(last[skill] >= SIMILAR * last[skill][layer, head]).tolist()))
        row[f"without {skill} head"] = loss_without(model, [(layer, head)])
        row[f"such {skill} heads"], row[f"without all {skill} heads"] = len(similar), loss_without(model, similar)
    early, late = best["previous_token"], best["induction"]
    if early[0] < late[0]:
        row["K-composition"], row["its rank"], row["random"] = key_composition(model, early, late)
        row["copying"] = float(jh.eigenvalue_copying(model).values[late])
    return row


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds with Student's intervals."""
    rows = []
    for condition, group in runs.groupby("condition", sort=False):
        for name in ("loss", "accuracy", "previous_token", "induction", "K-composition", "copying"):
            values = group[name].to_numpy(float) if name in group else np.empty(0)
            if len(values) > 1 and np.isfinite(values).all():
                mean, low, high = lab.mean_over_seeds(values)
                rows.append({"condition": condition, "number": name, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


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
            checkpoints=log_spaced(steps, 120),
        )
        measured = measure_checkpoints(trained)
        rows += [row_of_run(variant, trained, measured, run) for run in range(seeds)]
        curves = {"loss": measured.values["loss"], **{skill: measured.best(skill) for skill in SKILLS}}
        onsets.append(skill_onsets(variant, measured, curves))
        figures[lab.file_name(variant.name)] = evolution(
            measured.steps, curves, lines={"loss": anchors}, onsets={}, together=[["loss"], list(SKILLS)]
        )
        print(f"{variant.name}: {curves['loss'][-1].round(3).tolist()}", flush=True)
    runs, when = pd.DataFrame(rows), pd.concat(onsets, ignore_index=True)
    tables = {"runs": runs, "onsets": when, "over-seeds": over_seeds(runs)}
    return lab.Results(page(options, runs, when), options.about, tables, figures)


def skill_onsets(variant: Variant, measured: Trace, curves: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return the step of each skill's onset by threshold, and the step of the loss's phase change, a row a seed."""
    steps = {
        f"{skill} {share:.0%}": onset(measured.steps, curves[skill], share=share, least=0.3)
        for skill in SKILLS
        for share in SHARES
    }
    steps["loss falls"] = phase_change(measured.steps, curves["loss"]).step
    seeds = range(curves["loss"].shape[1])
    return pd.DataFrame({"condition": variant.name, "seed": seeds, **steps})


def previous_token_first(onsets: pd.DataFrame) -> dict[float, float]:
    """Return the share of the seeds of two layers whose previous-token head comes first, by threshold."""
    two_layers: Any = onsets[onsets["condition"] == "two layers"]
    return {
        share: order({skill: two_layers[f"{skill} {share:.0%}"].to_numpy() for skill in SKILLS}).to_numpy()[0, 1]
        for share in SHARES
    }


def page(options: Options, runs: pd.DataFrame, onsets: pd.DataFrame) -> str:
    """Return the page for readers."""
    seeds, steps = options.trained
    anchors = Induction().anchors
    ranks = runs.loc[runs["condition"] == "two layers", "its rank"].to_numpy() if "its rank" in runs else np.empty(0)
    top = int((ranks == 1).sum())
    first = previous_token_first(onsets)
    came_first = ", ".join(f"{value:.0%} of the seeds at {share:.0%} of the way" for share, value in first.items())
    single, together = (
        ", ".join(
            f"{skill.replace('_', ' ')} {_range(runs, 'two layers', f'without {which}{skill} head{plural}')}"
            for skill in SKILLS
        )
        for which, plural in (("", ""), ("all ", "s"))
    )
    one, two = (
        f"loss {_range(runs, layers, 'loss')}, best induction score {_range(runs, layers, 'induction')}"
        for layers in ("one layer", "two layers")
    )
    shortcut = f"loss on random lengths {_range(runs, 'two layers, one length', 'loss')}"
    return f"""# How an induction head forms

Attention-only models of 4 heads a layer, width 64; {seeds} seeds, {steps} steps of {options.batch} examples (AdamW,
{options.rate:g}). Measured on {EVALUATED} fresh segments of random length. Loss: nats per determined token. A model
that knows nothing has {anchors["uniform"]:.3f}, a model that knows which tokens the segment has {anchors["seen"]:.3f},
the best model 0.

| claim | published | here |
|---|---|---|
| one layer never forms induction | Olsson et al. 2022 [S] | {one} |
| two layers do | Olsson et al. 2022 [S] | {two} |
| previous-token head first | Elhage et al. 2021 [S] | in {came_first} |
| that pair composes through keys | Elhage et al. 2021 [S] | the most of all pairs in {top} of {seeds} seeds |
| without either head the loss is back at ln S, {anchors["seen"]:.3f} | (our anchor) | {single} |
| without all heads of the skill | (our anchor) | {together} |
| one length in training is a shortcut | literature, trap 11 | {shortcut} |

{runs.drop(columns=["trained loss"]).to_markdown(index=False, floatfmt=".3f")}

Heads of a skill have at least {SIMILAR:.0%} of the best head's score. An onset is the step at which a score has covered
that share of the way to its best; the loss falls at the step where it is steepest per log step.

{onsets.to_markdown(index=False, floatfmt=".0f")}
"""


def _range(runs: pd.DataFrame, condition: str, column: str) -> str:
    values = runs.loc[runs["condition"] == condition, column].to_numpy(float)
    return f"{values.min():.3f} to {values.max():.3f}"


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
