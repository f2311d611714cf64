"""How statistical induction forms in context: uniform, then unigram, then bigram.

    python -m experiments.markov_phases [--quick] [--states K …] [--seeds N] [--steps N] [--out DIR]

After Edelman et al. 2024 (arXiv 2402.11004): every example is a Markov chain of its own, and the best a model can do is
to count. Their model (two layers of one head, width 16, attention only, relative positions; here rotary) and optimiser
(AdamW 5e-4, β 0.9 / 0.95, decay 0.1, batch 64), K = 2, 3 and 5 states, against one layer, and against doubly stochastic
chains, which have no unigram to learn on the way. At checkpoints the model's predictions on fresh chains are compared
with the unigram's and the bigram's (both by Laplace's rule): KL divergence in nats per position.

Should show: the divergence to the unigram falls first, then rises as that to the bigram falls; the end within 0.02
nats of the Bayes predictor; one layer stops at the unigram. Published losses for K = 2 (their log, [P]): 0.718 at step
0, 0.581 at 400, 0.541 at 800, 0.574 at 1200, 0.530 at 1600 (of one batch each).

Found (results/markov-phases; 3 seeds): with K = 2 all three. The model is nearest the unigram after 40 to 158 steps
(0.014 to 0.018 nats), nearer the bigram from step 420 to 510 on, and ends 0.015 from the Bayes predictor, 0.07 from the
unigram. More states take longer: the bigram is nearer from step 510 to 620 on with K = 3, 917 to 1,114 with K = 5, and
after as many steps they end 0.023 and 0.026 to 0.031 from Bayes, not within 0.02; more steps were not tried. One layer
(K = 3) ends 0.02 from the unigram and 0.12 from the bigram, in every seed. Losses with K = 2 are below the published
ones at the same steps (0.532 for 0.581 at 400, 0.506 for 0.530 at 1600): no dropout, rotary positions, larger initial
weights. Without a unigram to learn on the way (doubly stochastic chains) the bigram of K = 3 is nearer from step 620 to
754 on, later than with one, and the end is 0.04 to 0.07 from Bayes; with K = 2 (another run) it came sooner, from 192
to 284 on: what the unigram phase costs or helps hangs on K.

Cost on 2 cores: 9 minutes; --quick, under one, only shows that it runs.
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

from experiments.lab import command_line, file_name, publish
from jaxheads.data.tasks import Markov
from jaxheads.data.tasks.markov import bigram, unigram
from jaxheads.models.network import Network, forward
from jaxheads.train.loop import train
from jaxheads.train.monitor import Trace, trace
from jaxheads.train.objective import scores
from jaxheads.train.plots import evolution
from jaxheads.train.runs import grid

PUBLISHED = {0: 0.718, 400: 0.581, 800: 0.541, 1200: 0.574, 1600: 0.530}
"""Losses of Edelman et al.'s run with K = 2 at its steps, of one batch each [P]."""

EVALUATED = 128


@dataclass(frozen=True)
class Options:
    """What is trained.

    Attributes:
        quick: K = 2 alone, few steps of few seeds.
        states: numbers of states.
        seeds, steps: how many; 3 and 2,000 when left out.
        width: of the model.
        rate: of AdamW.
    """

    quick: bool = False
    states: tuple[int, ...] = (2, 3, 5)
    seeds: int | None = None
    steps: int | None = None
    width: int = 16
    rate: float = 5e-4
    out: Path = Path("results/markov-phases")

    @property
    def trained(self) -> tuple[int, int]:
        """Seeds and steps."""
        return self.seeds or (2 if self.quick else 3), self.steps or (20 if self.quick else 2000)


@dataclass(frozen=True)
class Variant:
    """One condition."""

    name: str
    task: Markov
    layers: int = 2


def variants(options: Options) -> list[Variant]:
    """Every K; and with the second of them (or the only one) one layer, and the control."""
    states = options.states[:1] if options.quick else options.states
    other = states[min(1, len(states) - 1)]
    return [
        *(Variant(f"K = {K}", Markov(K)) for K in states),
        Variant(f"K = {other}, one layer", Markov(other), layers=1),
        Variant(f"K = {other}, doubly stochastic", Markov(other).control()),
    ]


def watch(made: Any, task: Markov) -> Trace:
    """At every checkpoint the loss on fresh chains, and how far predictions are from the unigram and the bigram."""
    sample = task.sample(jax.random.key(54321), EVALUATED)
    tokens = sample.batch.tokens
    laws = {
        name: jax.vmap(partial(rule, task.states))(tokens) for name, rule in (("unigram", unigram), ("bigram", bigram))
    }
    laws["bayes"] = jax.vmap(task.bayes)(tokens)

    def numbers(network: Network) -> dict[str, Array]:
        logits = network.output(forward(network, sample.batch)[0], sample.batch)
        model_BTK = jax.nn.log_softmax(logits)
        apart = {
            f"KL from {name}": (law * (jnp.log(law) - model_BTK)).sum(axis=-1).mean() for name, law in laws.items()
        }
        return {"loss": scores(network, sample)[0], **apart}

    return trace(made.runs, made.steps, made.trajectory, numbers)


def phases(seen: Trace) -> pd.DataFrame:
    """One row a seed: when it is nearest the unigram, how near, and when it is nearer the bigram for good."""
    uni, bi = seen.values["KL from unigram"], seen.values["KL from bigram"]
    rows = []
    for run in range(uni.shape[1]):
        nearest = int(uni[:, run].argmin())
        nearer = bi[:, run] < uni[:, run]
        crossed = len(nearer) - int(np.argmin(nearer[::-1])) if not nearer.all() else 0
        rows.append(
            {
                "seed": run,
                "nearest unigram at": int(seen.steps[nearest]),
                "KL from unigram then": uni[nearest, run],
                "nearer bigram from": int(seen.steps[crossed]) if crossed < len(seen.steps) else np.nan,
                "KL from unigram at the end": uni[-1, run],
                "KL from bigram at the end": bi[-1, run],
                "KL from Bayes at the end": seen.values["KL from bayes"][-1, run],
                "loss at the end": seen.values["loss"][-1, run],
            }
        )
    return pd.DataFrame(rows)


def beside_published(seen: Trace, options: Options) -> pd.DataFrame:
    """The loss of K = 2 at the steps that were published, by interpolation between checkpoints; mean and range."""
    _, steps = options.trained
    loss = seen.values["loss"]
    rows = []
    for step, published in PUBLISHED.items():
        if step <= steps:
            each = [np.interp(np.log1p(step), np.log1p(seen.steps), loss[:, run]) for run in range(loss.shape[1])]
            rows.append(
                {"step": step, "published [P]": published, "mean": np.mean(each), "least": min(each), "most": max(each)}
            )
    return pd.DataFrame(rows)


def run(options: Options) -> None:
    """Train, watch, write."""
    seeds, steps = options.trained
    tables, figures, published = [], {}, pd.DataFrame()
    for variant in variants(options):
        config = variant.task.model_config(n_layers=variant.layers, d_model=options.width)
        made = train(
            config, variant.task, steps, batch=64, init_scale=4.0, progress=True,
            runs=grid(range(seeds), rate=[options.rate], decay=[0.1], b2=[0.95]),
        )  # fmt: skip
        seen = watch(made, variant.task)
        found = phases(seen)
        found.insert(0, "condition", variant.name)
        found["Bayes"] = variant.task.optimum
        tables.append(found)
        curves = {name: seen.values[name] for name in ("loss", "KL from unigram", "KL from bigram")}
        levels = {
            name: value for name, value in variant.task.anchors.items() if name in ("uniform", "unigram", "bigram")
        }
        figures[variant.name] = evolution(
            seen.steps, curves, lines={"loss": levels}, together=[["loss"], ["KL from unigram", "KL from bigram"]]
        )
        if variant.name == "K = 2":
            published = beside_published(seen, options)
        print(
            f"{variant.name}: {found['loss at the end'].round(3).tolist()} (Bayes {variant.task.optimum:.3f})",
            flush=True,
        )
    write(options, pd.concat(tables, ignore_index=True), published, figures)


def write(options: Options, table: pd.DataFrame, published: pd.DataFrame, figures: dict[str, Any]) -> None:
    """Tables, pictures, the page."""
    seeds, steps = options.trained
    about = {
        "seeds": seeds, "steps": steps, "rate": options.rate, "width": options.width, "evaluated": EVALUATED,
    }  # fmt: skip
    text = f"""# How statistical induction forms

Two layers of one head, width {options.width}, attention only, {seeds} seeds, {steps} steps of 64 chains of 100 states;
measured on {EVALUATED} fresh chains. KL: of the predictor named from the model, nats per position.

{table.to_markdown(index=False, floatfmt=".3f")}

## Beside the published losses, K = 2

Theirs are of one batch each, with dropout 0.1 and learnt relative positions; ours of {EVALUATED} fresh chains, without
dropout and with rotary positions. The anchors: uniform {np.log(2):.3f}, unigram {Markov(2).anchors["unigram"]:.3f},
bigram {Markov(2).anchors["bigram"]:.3f}.

{published.to_markdown(index=False, floatfmt=".3f")}
"""
    named = {file_name(name): figure for name, figure in figures.items()}
    publish(options.out, text, about, {"runs": table, "published": published}, named)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("markov_phases", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
