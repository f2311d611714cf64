"""Formation of statistical induction in context: models are first uniform, then unigram, then bigram predictors.

    python -m experiments.markov_phases [--quick] [--states K …] [--seeds N] [--steps N] [--out DIR]

After Edelman et al. 2024 (arXiv 2402.11004): every example is a new Markov chain, so that the best a model can do is to
count. Their model (two layers of one head, width 16, attention only, relative positions; here rotary) and optimiser
(AdamW 5e-4, β 0.9 / 0.95, decay 0.1, batch 64), with K = 2, 3 and 5 states. Controls: one layer, and doubly stochastic
chains, which have no unigram to learn on the way. At checkpoints the model's predictions on fresh chains are compared
with those of the unigram and the bigram predictor (both by Laplace's rule): KL divergence in nats per position.

Expected: the divergence from the unigram first falls, then rises while that from the bigram falls; training ends within
0.02 nats of the Bayes predictor; one layer stops at the unigram. Published losses for K = 2 (their log, [P]): 0.718 at
step 0, 0.581 at 400, 0.541 at 800, 0.574 at 1200, 0.530 at 1600 (one batch each).

Found (results/markov-phases; 3 seeds): with K = 2 all three. The model is nearest the unigram after 40 to 158 steps
(0.014 to 0.018 nats), nearer the bigram from step 420 to 510 on, and ends 0.015 from the Bayes predictor and 0.07 from
the unigram. More states take longer: the bigram is nearer from step 510 to 620 on with K = 3, from 917 to 1,114 with
K = 5, and after the same number of steps the models end 0.023 and 0.026 to 0.031 from Bayes, not within 0.02; longer
training was not tried. One layer (K = 3) ends 0.02 from the unigram and 0.12 from the bigram in every seed. Losses with
K = 2 are below the published ones at the same steps (0.532 against 0.581 at 400, 0.506 against 0.530 at 1600): we have
no dropout, rotary positions and larger initial weights. Without a unigram to learn on the way (doubly stochastic
chains) the bigram of K = 3 is nearer from step 620 to 754 on, later than with a unigram, and training ends 0.04 to 0.07
from Bayes; with K = 2 (another run) it came sooner, from 192 to 284 on. So whether the unigram phase delays or helps
depends on K.

Cost on 2 cores: 9 minutes; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

import jaxheads as jh
from experiments import lab
from jaxheads.data.tasks import Markov, bigram, unigram
from jaxheads.train import Network, Trace, Trained, evolution, grid, scores, trace, train

PUBLISHED = {0: 0.718, 400: 0.581, 800: 0.541, 1200: 0.574, 1600: 0.530}
"""Losses of Edelman et al.'s run with K = 2 by step, of one batch each [P]."""

EVALUATED = 128
"""Fresh chains that checkpoints are measured on."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and the kinds of chains. A quick run takes K = 2 alone.

    Attributes:
        states: numbers of states.
        width: width of the model.
    """

    usual = (3, 2000)
    short = (2, 20)
    out: Path = Path("results/markov-phases")
    batch: int = 64
    rate: float = 5e-4
    states: tuple[int, ...] = (2, 3, 5)
    width: int = 16


@dataclass(frozen=True)
class Variant:
    """One condition: a task and the depth of the models."""

    name: str
    task: Markov
    layers: int = 2


def variants(options: Options) -> list[Variant]:
    """Return every K and, with the second of them (or the only one), one layer and the control."""
    states = options.states[:1] if options.quick else options.states
    other = states[min(1, len(states) - 1)]
    return [
        *(Variant(f"K = {K}", Markov(K)) for K in states),
        Variant(f"K = {other}, one layer", Markov(other), layers=1),
        Variant(f"K = {other}, doubly stochastic", Markov(other).control()),
    ]


def measure_checkpoints(trained: Trained, task: Markov) -> Trace:
    """Return the loss on fresh chains, and the divergences from each predictor, at every checkpoint."""
    sample = task.sample(jax.random.key(54321), EVALUATED)
    tokens = sample.batch.tokens
    predictors = {
        "unigram": jax.vmap(partial(unigram, task.states))(tokens),
        "bigram": jax.vmap(partial(bigram, task.states))(tokens),
        "bayes": jax.vmap(task.bayes)(tokens),
    }

    def numbers(network: Network) -> dict[str, Array]:
        log_p_BTK = jax.nn.log_softmax(jh.run(jh.Model(network), sample.batch).output)
        divergences = {
            f"KL from {name}": (p_BTK * (jnp.log(p_BTK) - log_p_BTK)).sum(axis=-1).mean()
            for name, p_BTK in predictors.items()
        }
        return {"loss": scores(network, sample)[0], **divergences}

    return trace(trained.runs, trained.steps, trained.trajectory, numbers)


def phases(measured: Trace) -> pd.DataFrame:
    """Return a row for each seed: when it is nearest the unigram, how near, and from when on the bigram is nearer."""
    unigram_CR, bigram_CR = measured.values["KL from unigram"], measured.values["KL from bigram"]
    rows = []
    for run in range(unigram_CR.shape[1]):
        nearest = int(unigram_CR[:, run].argmin())
        nearer = bigram_CR[:, run] < unigram_CR[:, run]
        crossed = 0 if nearer.all() else len(nearer) - int(np.argmin(nearer[::-1]))
        rows.append(
            {
                "seed": run,
                "nearest unigram at": int(measured.steps[nearest]),
                "KL from unigram then": unigram_CR[nearest, run],
                "nearer bigram from": int(measured.steps[crossed]) if crossed < len(measured.steps) else np.nan,
                "KL from unigram at the end": unigram_CR[-1, run],
                "KL from bigram at the end": bigram_CR[-1, run],
                "KL from Bayes at the end": measured.values["KL from bayes"][-1, run],
                "loss at the end": measured.values["loss"][-1, run],
            }
        )
    return pd.DataFrame(rows)


def beside_published(measured: Trace, steps: int) -> pd.DataFrame:
    """Return the losses at the published steps, interpolated between checkpoints: mean and range over seeds."""
    loss_CR = measured.values["loss"]
    rows = []
    for step, published in PUBLISHED.items():
        if step <= steps:
            losses = [np.interp(np.log1p(step), np.log1p(measured.steps), loss_C) for loss_C in loss_CR.T]
            means = {"mean": np.mean(losses), "least": min(losses), "most": max(losses)}
            rows.append({"step": step, "published [P]": published, **means})
    return pd.DataFrame(rows)


def run(options: Options) -> lab.Results:
    """Train every variant and measure its checkpoints."""
    seeds, steps = options.trained
    tables, figures, published = [], {}, pd.DataFrame()
    for variant in variants(options):
        trained = train(
            variant.task.model_config(n_layers=variant.layers, d_model=options.width),
            variant.task,
            steps,
            batch=options.batch,
            init_scale=4.0,
            progress=True,
            runs=grid(range(seeds), rate=[options.rate], decay=[0.1], b2=[0.95]),
        )
        measured = measure_checkpoints(trained, variant.task)
        table = phases(measured)
        table.insert(0, "condition", variant.name)
        table["Bayes"] = variant.task.optimum
        tables.append(table)
        figures[lab.file_name(variant.name)] = picture(measured, variant)
        if variant.name == "K = 2":
            published = beside_published(measured, steps)
        losses = table["loss at the end"].round(3).tolist()
        print(f"{variant.name}: {losses} (Bayes {variant.task.optimum:.3f})", flush=True)
    runs = pd.concat(tables, ignore_index=True)
    about = {**options.about, "width": options.width, "evaluated": EVALUATED}
    return lab.Results(page(options, runs, published), about, {"runs": runs, "published": published}, figures)


def picture(measured: Trace, variant: Variant) -> Any:
    """Draw the loss beside the anchors, and the divergences from unigram and bigram."""
    curves = {name: measured.values[name] for name in ("loss", "KL from unigram", "KL from bigram")}
    shown = ("uniform", "unigram", "bigram")
    levels = {name: value for name, value in variant.task.anchors.items() if name in shown}
    panels = [["loss"], ["KL from unigram", "KL from bigram"]]
    return evolution(measured.steps, curves, lines={"loss": levels}, together=panels)


def page(options: Options, runs: pd.DataFrame, published: pd.DataFrame) -> str:
    """Return the page for readers."""
    seeds, steps = options.trained
    return f"""# How statistical induction forms

Two layers of one head, width {options.width}, attention only; {seeds} seeds, {steps} steps of {options.batch} chains of
100 states. Measured on {EVALUATED} fresh chains. KL: KL(predictor ‖ model), nats per position.

{runs.to_markdown(index=False, floatfmt=".3f")}

## Beside the published losses, K = 2

The published losses are of one batch each, with dropout 0.1 and learnt relative positions; ours are of {EVALUATED}
fresh chains, without dropout and with rotary positions. Losses of the predictors: uniform {np.log(2):.3f}, unigram
{Markov(2).anchors["unigram"]:.3f}, bigram {Markov(2).anchors["bigram"]:.3f}.

{published.to_markdown(index=False, floatfmt=".3f")}
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
