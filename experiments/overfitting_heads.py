"""Overfitting by head: what does each head do for examples that were learnt by heart, and for fresh ones?

    python -m experiments.overfitting_heads [--quick] [--seeds N] [--steps N] [--few N] [--out DIR]

Small decoders learn subject–verb agreement (`Agreement`: the number of the verb is that of the first noun, whatever
nouns stand between) on few sentences or on many, with right labels or with noise: a part of the sentences has a verb of
a random number. Each is trained with and without weight decay. With decay the model is the regularised one. Every seed
has its own weights, its own training set and its own fresh sentences.

Each head is ablated (its output replaced by the mean over fresh sentences that serve for nothing else), and the loss of
the verb is read on the sentences of the training set and on fresh ones. The head whose removal helps fresh sentences
most is chosen on one half of these and reported on the other; so is the head that the training set needs most. Controls
are models of labels that are noise alone, where nothing but the training set can be learnt, and untrained models.

Found: see results/overfitting-heads/summary.md, whose findings the run writes. Cost: about 4 minutes on 2 quiet cores.

--quick, under one minute, only shows that it runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data.tasks import Agreement, FewExamples, Sample
from jaxheads.statistics import rank_correlation, split_halves
from jaxheads.train import Trained, grid, train

from . import lab
from .support import overfitting_heads_page

TASK = Agreement()
MEASURED = 256
"""Sentences of the training set, and of each half of fresh ones, that effects are measured on."""
DECAYS = (0.0, 1.0)


@dataclass(frozen=True)
class Condition:
    """A training set: its name, its size, and the probability that a sentence's verb is of a random number."""

    name: str
    size: int
    noise: float


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and its sets.

    Attributes:
        few, many: sentences of a small and of a large training set.
        noise: probability that a sentence of a noisy set has a verb of a random number.
    """

    usual = (6, 500)
    short = (4, 3)
    least: ClassVar[Mapping[str, float]] = {"seed": 0, "noise": 0}
    out: Path = Path("results/overfitting-heads")
    rate: float = 3e-3
    few: int = 128
    many: int = 16384
    noise: float = 0.4

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if self.few < 4 or self.noise > 1:
            raise ValueError(
                f"--few, --noise: expected 4 sentences or more, a probability; got {self.few}, {self.noise}"
            )

    @property
    def conditions(self) -> Sequence[Condition]:
        """The training sets of this run."""
        wanted = (
            Condition("few", self.few, 0.0),
            Condition("few, noisy", self.few, self.noise),
            Condition("many", self.many, 0.0),
            Condition("many, noisy", self.many, self.noise),
            Condition("few, noise alone", self.few, 1.0),
        )
        return wanted[1:2] if self.quick else wanted

    @property
    def measured(self) -> int:
        """The number of sentences that effects are measured on."""
        return 16 if self.quick else MEASURED


def fitted(condition: Condition, options: Options) -> Trained:
    """Train all seeds of a condition, with each decay."""
    seeds, steps = options.trained
    return train(
        TASK.model_config(n_layer=2),
        FewExamples(TASK, condition.size, condition.noise),
        steps,
        batch=options.batch,
        checkpoints=[0, steps],
        runs=grid(range(seeds), rate=[options.rate], decay=DECAYS, cosine=[steps]),
        directory=options.unfinished / lab.file_name(condition.name),
    )


def effects(model: jh.Model, sample: Sample, reference: jh.Batch) -> tuple[float, np.ndarray]:
    """Return the mean loss of the verbs, and its change when each head gets its mean over the reference, `[E,L,N]`."""
    marks = sample.batch.marks
    assert marks is not None
    objective = jh.loss(where=np.asarray(marks["verb"]))
    table = jh.ablate(model, sample.batch, objective, reference=reference, per_position=False, progress=False)
    return float(table.provenance["unedited"]), np.asarray(table.per_example)


def rows_of(model: jh.Model, training: Sample, seed: int, options: Options) -> dict[str, Any]:
    """Return the numbers of one model: losses, heads' effects on both kinds of sentences, and those of chosen heads."""
    key, count = jax.random.fold_in(jax.random.key(11), seed), options.measured
    fresh, reference = (
        TASK.sample(jax.random.fold_in(key, number), size) for number, size in enumerate((2 * count, count))
    )
    sizes = min(len(training.batch), count)
    chosen = jax.tree.map(lambda leaf: leaf[:sizes], training)
    train_loss, on_training = effects(model, chosen, reference.batch)
    fresh_loss, on_fresh = effects(model, fresh, reference.batch)
    return summary(train_loss, on_training, fresh_loss, on_fresh, seed)


def summary(
    train_loss: float, on_training: np.ndarray, fresh_loss: float, on_fresh: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return the numbers of one model from effects `[E,L,N]`; heads are chosen and reported on different sentences."""
    halves = [
        [values[half].mean(axis=0).reshape(-1) for half in split_halves(len(values), seed)]
        for values in (on_training, on_fresh)
    ]
    (training_first, training_second), (fresh_first, fresh_second) = halves
    harmful, needed = int(fresh_first.argmin()), int(training_first.argmax())
    whole_training, whole_fresh = (values.mean(axis=0).reshape(-1) for values in (on_training, on_fresh))
    correlation = rank_correlation(whole_training, whole_fresh)
    return {
        "training loss": train_loss,
        "fresh loss": fresh_loss,
        "gap": fresh_loss - train_loss,
        "mean head, training": whole_training.mean(),
        "mean head, fresh": whole_fresh.mean(),
        "correlation": np.nan if correlation is None else correlation,
        "harmful head, choosing": fresh_first[harmful],
        "harmful head, fresh": fresh_second[harmful],
        "harmful head, training": whole_training[harmful],
        "needed head, training": training_second[needed],
        "needed head, fresh": whole_fresh[needed],
        "heads, training": whole_training.tolist(),
        "heads, fresh": whole_fresh.tolist(),
    }


def measured(condition: Condition, options: Options) -> list[dict[str, Any]]:
    """Train the models of a condition; return a row for each, trained and, where nothing else differs, untrained."""
    trained, rows = fitted(condition, options), []
    task = FewExamples(TASK, condition.size, condition.noise)
    for index, run in enumerate(trained.runs.hyper):
        seed, decay = int(run["seed"]), run["decay"]
        training = task.training_set(seed)[0]
        kinds: dict[str, int | None] = {"decay" if decay else "no decay": None}
        if condition.name == "few, noisy" and not decay:
            kinds["untrained"] = 0
        for kind, step in kinds.items():
            own = rows_of(trained.model(index, step), training, seed, options)
            rows.append({"training set": condition.name, "model": kind, "seed": seed, **own})
    return rows


def run(options: Options) -> lab.Results:
    """Train and measure every condition."""
    rows = []
    for condition in options.conditions:
        rows += options.keep(measured, condition, options)
        losses = [f"{row['training loss']:.2f}/{row['fresh loss']:.2f}" for row in rows if row["seed"] == 0]
        print(f"{condition.name}: loss on the training set / fresh, seed 0: {', '.join(losses[-3:])}", flush=True)
    return overfitting_heads_page.results(pd.DataFrame(rows), {**options.about, **facts(options)})


def facts(options: Options) -> dict[str, Any]:
    """Return words about the data for provenance."""
    sizes = {"few": options.few, "many": options.many, "noise": options.noise}
    return {**sizes, "decay": DECAYS[1], "measured": options.measured}


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
