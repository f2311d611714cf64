"""How an induction head forms: a phase change, a previous-token head before it, and the pair that composes.

    python -m experiments.induction_phase_change [--quick] [--seeds N] [--steps N] [--out DIR]

After Olsson et al. 2022 (arXiv 2209.11895) and Elhage et al. 2021, on repeated segments of random length: two layers of
heads alone against one layer, and against two layers that saw segments of one length only (a positional shortcut). Each
is trained from several seeds at once. At log-spaced checkpoints every head's previous-token and induction scores and
the loss without it are measured on fresh segments; at the end K-composition of all pairs is read off the weights.

Should show: one layer never does it, two layers always; the previous-token head comes before the induction head; of all
pairs of heads that very pair composes most through keys; without either, the loss is back at what is known of the
segment's tokens, ln S; and what was trained on one length fails on others.

Found (results/induction-phase-change; 5 seeds): one layer stays at 2.73 to 2.78 nats (ln S is 2.69), two layers end at
0.000 to 0.004 with an induction head of 0.98 to 0.99 in every seed, and the pair composes most of all pairs through
keys in 4 of 5. What was trained on one length has 12.8 to 16.2 nats on random ones. Two things did not come out as
told. The order depends on where a skill counts as set in: a tenth of the way to its best, the previous-token head is
first in 4 of 5 seeds, by 2 to 5 steps of some 170; half of the way, in none, for it goes on sharpening after induction
works. And without the best induction head nothing happens (0.007 to 0.024): all four heads of the layer have become
one. Without all of them the loss is 7.1 to 7.6, above ln S, for the model is then sure of what it does not know;
without the previous-token heads, one or two of them, 8.1 to 11.6.

Cost on 2 cores: about 4 minutes; --quick, under one, only shows that it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from experiments.lab import command_line, file_name, publish
from jaxheads.data.tasks import Induction
from jaxheads.measure.patterns import resolve
from jaxheads.models.network import Network
from jaxheads.statistics import t_mean
from jaxheads.train.loop import Trained, train
from jaxheads.train.monitor import Trace, head_scores, trace
from jaxheads.train.objective import scores
from jaxheads.train.onset import onset, order, phase_change
from jaxheads.train.plots import evolution
from jaxheads.train.runs import grid, log_spaced

SKILLS = ("previous_token", "induction")
EVALUATED = 64
"""Fresh examples that checkpoints are measured on."""

MANY = 0.5
"""Heads with at least this share of the best head's score count as heads of that skill."""

SHARES = (0.1, 0.5)
"""Of the way to the best score: where a skill counts as set in."""


@dataclass(frozen=True)
class Options:
    """What is trained.

    Attributes:
        quick: few steps of few seeds.
        seeds, steps: how many; 5 and 1,000 when left out.
        rate: of AdamW.
    """

    quick: bool = False
    seeds: int | None = None
    steps: int | None = None
    rate: float = 3e-3
    batch: int = 32
    out: Path = Path("results/induction-phase-change")

    @property
    def trained(self) -> tuple[int, int]:
        """Seeds and steps."""
        return self.seeds or (2 if self.quick else 5), self.steps or (30 if self.quick else 1000)


@dataclass(frozen=True)
class Variant:
    """One condition: what is trained, on what."""

    name: str
    layers: int
    task: Induction


VARIANTS = (
    Variant("two layers", 2, Induction()),
    Variant("one layer", 1, Induction()),
    Variant("two layers, one length", 2, Induction().control()),
)


def fresh() -> Any:
    """What everything is measured on: random lengths, whatever was trained."""
    return Induction().sample(jax.random.key(12345), EVALUATED)


def watch(made: Trained) -> Trace:
    """Heads' scores and the loss at every checkpoint."""
    sample = fresh()
    metrics = resolve(SKILLS)

    def numbers(network: Network) -> dict[str, jax.Array]:
        loss, right = scores(network, sample)
        found = head_scores(network, sample.batch, metrics)
        return {**found, "loss": loss, "accuracy": right}

    return trace(made.runs, made.steps, made.trajectory, numbers)


def composed(model: jh.Model, early: tuple[int, int], late: tuple[int, int]) -> tuple[float, int, float]:
    """K-composition of a pair, its rank among all pairs (1 is the largest), and the random mean."""
    found = jh.composition(model, "k")
    values = found.values["k"]
    own = values[(*early, *late)]
    return float(own), int((values > own).sum()) + 1, found.random[0]


def without(model: jh.Model, heads: list[tuple[int, int]]) -> float:
    """The loss with these heads' outputs set to zero."""
    return float(scores(model.network, fresh(), (jh.zero_heads(model, heads),))[0])


def of_run(variant: Variant, made: Trained, seen: Trace, run: int) -> dict[str, Any]:
    """One row of the table: a condition and a seed."""
    last = {name: value[-1, run] for name, value in seen.values.items()}
    own = made.curve[(made.curve["run"] == run) & (made.curve["step"] >= made.steps[-1] - 20)]
    row: dict[str, Any] = {"condition": variant.name, "seed": made.runs.hyper[run]["seed"]}
    row |= {"trained loss": own["loss"].mean(), "loss": float(last["loss"]), "accuracy": float(last["accuracy"])}
    heads = {skill: tuple(seen.best_head(skill)[run].tolist()) for skill in SKILLS}
    for skill, head in heads.items():
        row |= {skill: float(last[skill][head]), f"{skill} head": f"L{head[0]}H{head[1]}"}
        many = [(int(layer), int(one)) for layer, one in np.argwhere(last[skill] >= MANY * last[skill][head])]
        row[f"without {skill} head"] = without(made.model(run), [head])
        row[f"such {skill} heads"], row[f"without all {skill} heads"] = len(many), without(made.model(run), many)
    early, late = heads["previous_token"], heads["induction"]
    if early[0] < late[0]:
        row["K-composition"], row["its rank"], row["random"] = composed(made.model(run), early, late)
        row["copying"] = float(jh.eigenvalue_copying(made.model(run)).values[late])
    return row


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Means with Student's intervals; the seed is what was drawn."""
    rows = []
    for condition, group in runs.groupby("condition", sort=False):
        for name in ("loss", "accuracy", "previous_token", "induction", "K-composition", "copying"):
            values = group[name].to_numpy(float) if name in group else np.empty(0)
            if len(values) > 1 and np.isfinite(values).all():
                mean, low, high = (float(part) for part in t_mean(values))
                rows.append({"condition": condition, "number": name, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def run(options: Options) -> None:
    """Train all conditions, watch them, write."""
    seeds, steps = options.trained
    table, figures, onsets = [], {}, {}
    anchors = Induction().anchors
    for variant in VARIANTS:
        config = variant.task.model_config(n_layers=variant.layers)
        made = train(
            config, variant.task, steps, runs=grid(range(seeds), rate=[options.rate]), batch=options.batch,
            init_scale=3.0, progress=True, checkpoints=log_spaced(steps, 120),
        )  # fmt: skip
        seen = watch(made)
        table += [of_run(variant, made, seen, run) for run in range(seeds)]
        curves = {"loss": seen.values["loss"], **{skill: seen.best(skill) for skill in SKILLS}}
        found = {
            f"{skill} {share:.0%}": onset(seen.steps, curves[skill], share=share, least=0.3)
            for skill in SKILLS
            for share in SHARES
        }
        onsets[variant.name] = {**found, "loss falls": phase_change(seen.steps, curves["loss"]).step}
        figures[variant.name] = evolution(
            seen.steps, curves, lines={"loss": dict(anchors)}, onsets={}, together=[["loss"], list(SKILLS)]
        )
        print(f"{variant.name}: {[round(float(value), 3) for value in seen.values['loss'][-1]]}", flush=True)
    runs = pd.DataFrame(table)
    write(options, runs, onsets, figures)


def write(options: Options, runs: pd.DataFrame, onsets: dict[str, Any], figures: dict[str, Any]) -> None:
    """Tables, pictures, the page."""
    seeds, steps = options.trained
    frame = pd.DataFrame(
        [
            {"condition": condition, "seed": seed, **{name: values[seed] for name, values in found.items()}}
            for condition, found in onsets.items()
            for seed in range(seeds)
        ]
    )
    first = {
        share: order({skill: onsets["two layers"][f"{skill} {share:.0%}"] for skill in SKILLS}).to_numpy()[0, 1]
        for share in SHARES
    }
    about = {"seeds": seeds, "steps": steps, "batch": options.batch, "rate": options.rate}
    tables = {"runs": runs, "onsets": frame, "over-seeds": over_seeds(runs)}
    named = {file_name(name): figure for name, figure in figures.items()}
    publish(options.out, page(options, runs, frame, first), about, tables, named)


def page(options: Options, runs: pd.DataFrame, onsets: pd.DataFrame, first: dict[float, float]) -> str:
    """What was found, for a reader."""
    seeds, steps = options.trained
    anchors = Induction().anchors
    ranks = runs.loc[runs["condition"] == "two layers", "its rank"].to_numpy() if "its rank" in runs else np.empty(0)
    top = int((ranks == 1).sum())
    came_first = ", ".join(f"{value:.0%} of the seeds at {share:.0%} of the way" for share, value in first.items())
    alone, together = (
        ", ".join(
            f"{skill.replace('_', ' ')} {_range(runs, 'two layers', f'without {which}{skill} head{plural}')}"
            for skill in SKILLS
        )
        for which, plural in (("", ""), ("all ", "s"))
    )
    shown = runs.drop(columns=["trained loss"])
    one, both = (
        f"loss {_range(runs, layers, 'loss')}, best induction score {_range(runs, layers, 'induction')}"
        for layers in ("one layer", "two layers")
    )
    shortcut = f"loss on random lengths {_range(runs, 'two layers, one length', 'loss')}"
    return f"""# How an induction head forms

Attention-only models, 4 heads a layer, width 64, {seeds} seeds, {steps} steps of {options.batch} examples (AdamW,
{options.rate:g}); measured on {EVALUATED} fresh segments of random length. Loss: nats per token that is determined; of
one who knows nothing {anchors["uniform"]:.3f}, of one who knows which tokens were said {anchors["seen"]:.3f}, at
best 0.

| claim | published | here |
|---|---|---|
| one layer never forms induction | Olsson et al. 2022 [S] | {one} |
| two layers do | Olsson et al. 2022 [S] | {both} |
| previous-token head first | Elhage et al. 2021 [S] | in {came_first} |
| that pair composes through keys | Elhage et al. 2021 [S] | the most of all pairs in {top} of {seeds} seeds |
| without either head the loss is back at ln S, {anchors["seen"]:.3f} | (our anchor) | {alone} |
| without all heads of the skill | (our anchor) | {together} |
| one length in training is a shortcut | literature, trap 11 | {shortcut} |

{shown.to_markdown(index=False, floatfmt=".3f")}

Heads of a skill: with at least {MANY:.0%} of the best head's score. Onsets: so much of the way to the best score, in
steps; the loss falls where it is steepest per log step.

{onsets.to_markdown(index=False, floatfmt=".0f")}
"""


def _range(runs: pd.DataFrame, condition: str, column: str) -> str:
    values = runs.loc[runs["condition"] == condition, column].to_numpy(float)
    return f"{values.min():.3f} to {values.max():.3f}"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("induction_phase_change", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
