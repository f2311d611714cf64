"""Statistical induction in context: are models first uniform, then unigram, then bigram predictors?

    python -m experiments.markov_phases [--quick] [--states K …] [--seeds N] [--steps N] [--out DIR]

After Edelman et al. 2024 (arXiv 2402.11004): every example is a new Markov chain, so that the best a model can do is to
count. Their model (two layers of one head, width 16, attention only, relative positions; here rotary) and optimiser
(AdamW 5e-4, β 0.9 / 0.95, decay 0.1, batch 64), with K = 2, 3 and 5 states. Controls: one layer, and doubly stochastic
chains, which have no unigram to learn on the way. At checkpoints the model's predictions on fresh chains are compared
with those of the unigram and the bigram predictor (both by Laplace's rule): KL divergence in nats per position. The
Bayes predictor's loss is that on the chains of the models' losses: between samples of chains it differs by more than
models differ from it. The checkpoint that is nearest the unigram is chosen on other chains than it is reported on.

Expected: the divergence from the unigram first falls, then rises while that from the bigram falls; training ends within
0.02 nats of the Bayes predictor; one layer stops at the unigram. Published losses for K = 2 (their log, [P]): 0.718 at
step 0, 0.581 at 400, 0.541 at 800, 0.574 at 1200, 0.530 at 1600 (one batch each).

Found (results/markov-phases/summary.md, whose findings the run writes; 4 seeds, 128 chains): with K = 2 all three. Two
layers come near the unigram and then leave it for the bigram in every seed. With K = 2 they end within 0.02 nats of
the Bayes predictor, with K = 5 not; with K = 3 and without a unigram it is not shown either way. No loss is below that
of Bayes. One layer stays nearer the unigram in every seed. Which K, or whether a unigram on the way, delays the bigram
is not shown: the intervals of all three differences hold 0. Losses with K = 2 are below the published ones, beyond what
one batch and one seed explain at one step of five.

Cost: about 15 minutes of processor time; --quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

import jaxheads as jh
from jaxheads.data.tasks import Markov, bigram, unigram
from jaxheads.train import Network, Trace, Trained, evolution, grid, log_spaced, trace, train

from . import lab
from .support import markov_phases_page
from .support.training_intervals import ANY, POSITIVE, interval

PUBLISHED = {0: 0.718, 400: 0.581, 800: 0.541, 1200: 0.574, 1600: 0.530}
"""Losses of Edelman et al.'s run with K = 2 by step, of one batch each [P]."""

EVALUATED = 128
"""Fresh chains that everything is reported on; as many others choose the steps."""

PREDICTORS = ("unigram", "bigram", "Bayes")

REPORTED = (
    "KL from unigram when nearest",
    *(f"KL from {name} at the end" for name in PREDICTORS),
    "loss at the end",
    "loss of Bayes",
    "loss − Bayes",
)
"""Numbers of each seed that are means over chains."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and the kinds of chains. A quick run takes K = 2 alone.

    Attributes:
        states: numbers of states.
        width: width of the model.
    """

    usual = (4, 2000)
    short = (2, 20)
    out: Path = Path("results/markov-phases")
    batch: int = 64
    rate: float = 5e-4
    states: tuple[int, ...] = (2, 3, 5)
    width: int = 16

    least: ClassVar = {**lab.TrainingOptions.least, "states": 2}

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if self.width % 2:
            raise ValueError(f"--width: expected an even number, for rotary positions, got {self.width}")


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


def laws(task: Markov, tokens_BT: Array) -> dict[str, Array]:
    """Return each predictor's probabilities of the next state, `[B,T,K]`."""
    unigram_BTK, bigram_BTK = (jax.vmap(partial(rule, task.states))(tokens_BT) for rule in (unigram, bigram))
    return {"unigram": unigram_BTK, "bigram": bigram_BTK, "Bayes": jax.vmap(task.bayes)(tokens_BT)}


def losses(log_p_BTK: Array, targets_BT: Array) -> Array:
    """Return the mean loss over each chain's positions, `[B]`."""
    return -jnp.take_along_axis(log_p_BTK, targets_BT[..., None], axis=2)[..., 0].mean(axis=1)


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of one condition at its checkpoints.

    Attributes:
        curves: "loss" and "KL from …" of every chain, `[C,R,E]`, and on other chains "choosing unigram" and "choosing
            bigram", the mean divergences, `[C,R]`.
        predictors: each predictor's loss on the chains of the curves, `[E]`.
    """

    curves: Trace
    predictors: dict[str, np.ndarray]

    def seeds(self) -> pd.DataFrame:
        """Return a row for each seed: its phases, and its numbers as means over chains."""
        steps = phases(self.curves)
        return steps.assign(**{name: values_RE.mean(axis=1) for name, values_RE in self.reported().items()})

    def reported(self) -> dict[str, np.ndarray]:
        """Return the reported numbers of every seed and chain, `[R,E]`."""
        last = {name: values[-1] for name, values in self.curves.values.items()}
        nearest_R = self.curves.values["choosing unigram"].argmin(axis=0)
        bayes_RE = np.broadcast_to(self.predictors["Bayes"], last["loss"].shape)
        when_nearest_RE = self.curves.values["KL from unigram"][nearest_R, np.arange(len(nearest_R))]
        ends = [last[f"KL from {name}"] for name in PREDICTORS]
        values = (when_nearest_RE, *ends, last["loss"], bayes_RE, last["loss"] - bayes_RE)
        return dict(zip(REPORTED, values, strict=True))


def measure_checkpoints(trained: Trained, task: Markov) -> Measured:
    """Return the loss on fresh chains, and the divergences from each predictor, at every checkpoint."""
    sample, choosing = (task.sample(jax.random.key(seed), EVALUATED) for seed in (54321, 12345))
    assert sample.batch.tokens is not None
    assert choosing.batch.tokens is not None
    assert sample.targets is not None
    targets_BT = sample.targets
    reported, chosen = laws(task, sample.batch.tokens), laws(task, choosing.batch.tokens)

    def numbers(network: Network) -> dict[str, Array]:
        log_p_BTK, choosing_BTK = (
            jax.nn.log_softmax(jh.run(jh.Model(network), chains.batch).output) for chains in (sample, choosing)
        )
        divergences = {f"KL from {name}": divergence(p_BTK, log_p_BTK) for name, p_BTK in reported.items()}
        choices = {f"choosing {name}": divergence(chosen[name], choosing_BTK).mean() for name in ("unigram", "bigram")}
        return {"loss": losses(log_p_BTK, targets_BT), **divergences, **choices}

    curves = trace(trained.runs, trained.steps, trained.trajectory, numbers)
    predictors = {name: losses(jnp.log(p_BTK), targets_BT) for name, p_BTK in reported.items()}
    return Measured(curves, {name: np.asarray(values, np.float64) for name, values in predictors.items()})


def divergence(p_BTK: Array, log_q_BTK: Array) -> Array:
    """Return KL(p ‖ q), the mean over each chain's positions, `[B]`."""
    return (p_BTK * (jnp.log(p_BTK) - log_q_BTK)).sum(axis=-1).mean(axis=1)


def phases(curves: Trace) -> pd.DataFrame:
    """Return a row for each seed: when it is nearest the unigram, and from when on the bigram is nearer for good.

    Beside each step stands its spacing, the distance to the checkpoint before.
    """
    unigram_CR, bigram_CR = curves.values["choosing unigram"], curves.values["choosing bigram"]
    spacing = np.diff(curves.steps, prepend=curves.steps[0])
    rows = []
    for run in range(unigram_CR.shape[1]):
        nearest = int(unigram_CR[:, run].argmin())
        nearer = bigram_CR[:, run] < unigram_CR[:, run]
        crossed = 0 if nearer.all() else len(nearer) - int(np.argmin(nearer[::-1]))
        came = crossed < len(nearer)
        rows.append(
            {
                "seed": run,
                "nearest unigram at": float(curves.steps[nearest]),
                "spacing there": float(spacing[nearest]),
                "nearer bigram from": float(curves.steps[crossed]) if came else np.nan,
                "spacing then": float(spacing[crossed]) if came else np.nan,
            }
        )
    return pd.DataFrame(rows)


def two_intervals(condition: str, measured: Measured) -> pd.DataFrame:
    """Return a row for each reported number: its mean, and its intervals over seeds and over chains."""
    rows = []
    for name, values_RE in measured.reported().items():
        within = ANY if "−" in name else POSITIVE
        row: dict[str, Any] = {"condition": condition, "number": name}
        for what, values in (("seeds", values_RE.mean(axis=1)), ("chains", values_RE.mean(axis=0))):
            of = interval(values, within)
            row |= {"mean": float(of.mean), f"{what} low": float(of.low), f"{what} high": float(of.high)}
            row[what] = int(of.n)
        rows.append(row)
    return pd.DataFrame(rows)


def beside_published(measured: Measured) -> pd.DataFrame:
    """Return the losses at the published steps.

    A published loss is that of one seed and one batch. So the interval of the difference allows for another seed than
    ours and for that batch, with the spread that our seeds and our chains have.
    """
    steps, loss_CRE = measured.curves.steps, measured.curves.values["loss"]
    bayes = measured.predictors["Bayes"].mean()
    rows = []
    for step, published in PUBLISHED.items():
        if step in steps:
            loss_RE = loss_CRE[int(np.flatnonzero(steps == step)[0])]
            ours, half = float(loss_RE.mean()), _half_width(loss_RE)
            row = {"step": step, "published [P]": published, "ours": ours, "ours − Bayes": ours - bayes}
            difference = ours - published
            rows.append({**row, "ours − published": difference, "low": difference - half, "high": difference + half})
    return pd.DataFrame(rows)


def _half_width(loss_RE: np.ndarray) -> float:
    """Return the half width of the interval of our mean less a new seed's loss on a new batch (Satterthwaite 1946)."""
    from scipy import stats

    R, E = loss_RE.shape
    if R < 2:
        return float("nan")
    batch = loss_RE.mean(axis=0).var(ddof=1) * (1 / markov_phases_page.PUBLISHED_BATCH + 1 / E)
    seed = loss_RE.mean(axis=1).var(ddof=1) * (1 + 1 / R)
    freedom = (batch + seed) ** 2 / (batch**2 / (E - 1) + seed**2 / (R - 1))
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(batch + seed))


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return the steps that are measured: log-spaced ones, and the published ones."""
    return tuple(sorted({*log_spaced(steps, 80), *(step for step in PUBLISHED if step <= steps)}))


def run(options: Options) -> lab.Results:
    """Train every variant and measure its checkpoints."""
    seeds, steps = options.trained
    tables, intervals, figures, published = [], [], {}, pd.DataFrame()
    for variant in variants(options):
        trained = train(
            variant.task.model_config(n_layers=variant.layers, d_model=options.width),
            variant.task,
            steps,
            batch=options.batch,
            init_scale=4.0,
            progress=True,
            runs=grid(range(seeds), rate=[options.rate], decay=[0.1], b2=[0.95]),
            checkpoints=checkpoints(steps),
            directory=options.unfinished / lab.file_name(variant.name),
        )
        measured = measure_checkpoints(trained, variant.task)
        table = measured.seeds()
        table.insert(0, "condition", variant.name)
        tables.append(table)
        intervals.append(two_intervals(variant.name, measured))
        figures[lab.file_name(variant.name)] = picture(measured, variant)
        if variant.name == "K = 2":
            published = beside_published(measured)
        print(f"{variant.name}: loss − Bayes {table['loss − Bayes'].round(4).tolist()}", flush=True)
    runs, means = pd.concat(tables, ignore_index=True), pd.concat(intervals, ignore_index=True)
    about = {**options.about, "width": options.width, "evaluated": EVALUATED}
    training = {"width": options.width, "seeds": seeds, "steps": steps, "batch": options.batch, "evaluated": EVALUATED}
    text = markov_phases_page.page(training, runs, means, published)
    return lab.Results(text, about, {"runs": runs, "intervals": means, "published": published}, figures)


def picture(measured: Measured, variant: Variant) -> Any:
    """Draw the loss beside the predictors' losses on the same chains, and the divergences from unigram and bigram."""
    names = ("loss", "KL from unigram", "KL from bigram")
    curves = {name: measured.curves.values[name].mean(axis=2) for name in names}
    levels = {name: float(values.mean()) for name, values in measured.predictors.items() if name != "bigram"}
    levels["uniform"] = float(np.log(variant.task.states))
    panels = [["loss"], ["KL from unigram", "KL from bigram"]]
    return evolution(measured.curves.steps, curves, lines={"loss": levels}, together=panels)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
