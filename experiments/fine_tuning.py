"""Fine-tuning by head: whose patterns and whose effects move when an encoder of sentences learns to rate them?

    python -m experiments.fine_tuning --positive FILE --negative FILE [--model NAME] [--quick] [--out DIR]

The question of Kovaleva et al. 2019 (arXiv 1908.08593, section 4.2), who compare the heads' patterns of BERT before and
after fine-tuning by cosine. Here a model gets a fresh head of two classes and is trained, whole, to tell positive
sentences from negative ones. Every seed has its own order of the same sentences. Patterns (cosine, and Jensen–Shannon
divergence of their rows) and effects (mean ablation, on the logit of the right class less that of the wrong one) are
compared before and after, on sentences that no step used. The head that moves most is chosen on one half of them and
reported on the other. Controls: labels that are shuffled among the training sentences, and a model that starts from
random weights.

--positive and --negative are files of one sentence a line: rt-polarity.pos and rt-polarity.neg of the sentence polarity
data (Pang & Lee 2005; `sentence_polarity` of NLTK's data, CC BY 4.0). Without them 24 sentences stand for them, which
only shows that the experiment works.

Found: see results/fine-tuning/summary.md, whose findings the run writes.

Cost: not measured as a whole; a step of one seed takes half a second of processor time.

--quick, under one minute, only shows that it runs.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flax import nnx

import jaxheads as jh
from jaxheads.data.tasks import Examples, Sample
from jaxheads.statistics import rank_correlation, split_halves
from jaxheads.train import Trained, grid, train

from . import lab
from .support import fine_tuning_page

OWN = (
    "a warm and funny film, a moving story, a great cast, a clever script, a joy to watch, a lovely surprise, "
    "a rare delight, a fine debut, a rich and honest portrait, an exciting ride, a gentle comedy, a bright little gem",
    "a cold and empty film, a dull story, a weak cast, a lazy script, a pain to watch, a nasty surprise, "
    "a rare failure, a poor debut, a flat and false portrait, a boring ride, a tired comedy, a noisy little mess",
)
"""Positive and negative sentences of a run without files."""

LONGEST = 40
CONDITIONS = ("fine-tuned", "shuffled labels", "from random weights")


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, the model and the sentences.

    Attributes:
        positive, negative: files of one sentence a line.
        model: a model of texts, as `jh.load` takes it, of a family that has classifiers.
        sentences: training sentences.
        held_out: sentences that no step uses, whose ratings count.
        compared: those of them that heads are compared on.
    """

    usual = (3, 60)
    short = (2, 2)
    out: Path = Path("results/fine-tuning")
    batch: int = 16
    rate: float = 2e-4
    positive: Path | None = None
    negative: Path | None = None
    model: str = "minilm-l6"
    sentences: int = 4000
    held_out: int = 512
    compared: int = 48

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if (self.positive is None) != (self.negative is None):
            raise ValueError("--positive, --negative: give both files, or neither")


@dataclass(frozen=True)
class Rated:
    """Sentences as a model reads them, and whether each is positive (1 or 0)."""

    batch: jh.Batch
    labels: np.ndarray

    def task(self, labels: np.ndarray, name: str) -> Examples:
        """Return the task of telling the class that each label is."""
        return Examples(Sample(self.batch, labels.astype(np.int32), np.ones(len(labels), np.float32)), name=name)  # type: ignore[arg-type]

    def take(self, indices: Sequence[int]) -> "Rated":
        """Return these sentences alone."""
        return Rated(self.batch.take(indices), self.labels[np.asarray(indices)])

    @property
    def objective(self) -> Any:
        """The logit of the right class less that of the wrong one."""
        return jh.logit_difference(self.labels, 1 - self.labels)


def read(options: Options) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Return all sentences, their labels, and the sha256 of each file; each text once."""
    if options.positive is None or options.negative is None:
        texts, files = [own.split(", ") for own in OWN], {}
    else:
        paths = options.positive, options.negative
        texts = [[line.strip() for line in path.read_text(encoding="utf-8").splitlines()] for path in paths]
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    known = {text: label for label, own in ((1, texts[0]), (0, texts[1])) for text in own if text}
    return list(known), np.array(list(known.values())), files


def classifier(model: jh.Model, seed: int = 0) -> jh.Model:
    """Return the model with a fresh head of two classes in place of its own.

    Raises:
        ValueError: for a model of a family that has no classifiers of texts.
    """
    config = dict(model.hf_config or {})
    names = config.get("architectures") or [""]
    stem = re.sub(r"(Model|LMHeadModel|For[A-Z]\w+)$", "", names[0])
    named = {"architectures": [f"{stem}ForSequenceClassification"], "num_labels": 2}
    fresh = jh.init({**config, **named}, seed=seed)
    own = dict(nnx.to_flat_state(nnx.state(model.network, nnx.Param)))
    of_fresh = nnx.to_flat_state(nnx.state(fresh.network, nnx.Param))
    weights = nnx.from_flat_state([(path, own.get(path, weight)) for path, weight in of_fresh])
    return replace(fresh.with_parameters(weights, name=model.name), tokenizer=model.tokenizer)


def rated(model: jh.Model, texts: Sequence[str], labels: np.ndarray) -> Rated:
    """Encode sentences; longer ones lose their ends."""
    return Rated(model.encode(list(texts), max_length=LONGEST), labels)


def patterns(model: jh.Model, batch: jh.Batch) -> np.ndarray:
    """Return the patterns of all heads, `[E,L,N,T,T]`, 0 at padding."""
    pattern = np.asarray(jh.run(model, batch, "pattern").seen["pattern"], np.float64)  # [L,E,N,T,T]
    real = np.asarray(batch.mask)
    return np.moveaxis(pattern, 0, 1) * real[:, None, None, :, None]


def moved(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return how far patterns `[E,L,N,T,T]` moved: 1 − cosine, and the rows' mean divergence in nats, `[E,L,N]`."""
    product = (before * after).sum(axis=(-1, -2))
    norms = np.sqrt((before**2).sum(axis=(-1, -2)) * (after**2).sum(axis=(-1, -2)))
    middle = (before + after) / 2
    rows = _entropy(middle) - (_entropy(before) + _entropy(after)) / 2
    counts = mask.sum(axis=1)[:, None, None]
    return {"1 − cosine": 1 - product / norms, "divergence": np.maximum(rows.sum(axis=-1), 0) / counts}


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-30))).sum(axis=-1)


def effects(model: jh.Model, held: Rated) -> np.ndarray:
    """Return the objective's change when each head is ablated, `[E,L,N]`."""
    table = jh.ablate(model, held.batch, held.objective, per_position=False, progress=False)
    return np.asarray(table.per_example)


def right(model: jh.Model, held: Rated) -> np.ndarray:
    """Return whether each sentence is rated right."""
    return np.asarray(jh.class_accuracy(held.labels)(model, held.batch)).astype(float)


def compared(start: jh.Model, trained: Trained, held: Rated, count: int, condition: str) -> list[dict[str, Any]]:
    """Return a row for each seed: accuracy on all sentences, and how far heads moved on `count` of them."""
    few = held.take(range(count))
    mask = np.asarray(few.batch.mask)
    before, effect_before, right_before = patterns(start, few.batch), effects(start, few), right(start, held)
    rows = []
    for seed in range(len(trained.runs.hyper)):
        model = trained.model(seed)
        moves = moved(before, patterns(model, few.batch), mask)
        row = {"condition": condition, "seed": seed, "accuracy before": right_before.mean()}
        row |= {"accuracy": (rates := right(model, held)).mean(), "right": rates.tolist()}
        rows.append(row | summary(moves, effect_before, effects(model, few), seed))
    return rows


def summary(moves: Mapping[str, np.ndarray], before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the numbers of one model; the head that moves most is chosen on one half and reported on the other."""
    row: dict[str, Any] = {}
    first, second = split_halves(len(before), seed)
    for name, values_ELN in moves.items():
        means = values_ELN.mean(axis=0)
        best = int(values_ELN[first].mean(axis=0).argmax())
        row |= {name: means.mean(), f"{name}, by layer": means.mean(axis=1).tolist()}
        row |= {f"{name}, most": values_ELN[second].mean(axis=0).reshape(-1)[best], f"{name}, most at": best}
        row |= {f"{name}, heads": means.reshape(-1).tolist()}
    change = np.abs(after.mean(axis=0) - before.mean(axis=0)).reshape(-1)
    both = rank_correlation(moves["1 − cosine"].mean(axis=0).reshape(-1), change)
    same = rank_correlation(before.mean(axis=0).reshape(-1), after.mean(axis=0).reshape(-1))
    row |= {"effects before and after": np.nan if same is None else same}
    row |= {"movement and change of effect": np.nan if both is None else both}
    most = int(np.abs(after[first].mean(axis=0)).argmax())
    chosen = row["1 − cosine, most at"]
    row |= {"largest effect": after[second].mean(axis=0).reshape(-1)[most], "largest effect at": most}
    row |= {"effect of the head that moved most": after[second].mean(axis=0).reshape(-1)[chosen]}
    return row


def run(options: Options) -> lab.Results:
    """Fine-tune from the model, on shuffled labels, and from random weights; compare heads before and after."""
    texts, labels, files = read(options)
    order = np.random.default_rng(0).permutation(len(texts))
    held_out = min(options.held_out, len(texts) // 3)
    test, training = order[:held_out], order[held_out:][: options.sentences]
    model = classifier(jh.load(options.model))
    own, held = (rated(model, [texts[i] for i in part], labels[part]) for part in (training, test))
    shuffled = np.random.default_rng(1).permutation(own.labels)
    random = jh.random_weights(model, 1)
    asked = zip(CONDITIONS, (model, model, random), (own.labels, shuffled, own.labels), strict=True)
    seeds, steps = options.trained
    count = min(options.compared, len(test))
    rows = []
    for condition, start, wanted in asked:
        trained = train(
            start,
            own.task(wanted, condition),
            steps,
            batch=options.batch,
            checkpoints=[steps],
            runs=grid(range(seeds), rate=[options.rate], cosine=[steps]),
            directory=options.unfinished / lab.file_name(condition),
        )
        rows += compared(start, trained, held, count, condition)
        print(f"{condition}: accuracy {[round(float(row['accuracy']), 3) for row in rows[-seeds:]]}", flush=True)
    sizes = {
        "sentences": len(training),
        "held_out": len(test),
        "compared": count,
        "positive": float(held.labels.mean()),
    }
    about = lab.provenance(model, files=files or "own sentences", **{**options.about, **sizes})
    return fine_tuning_page.results(pd.DataFrame(rows), model.stack().heads, about)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
