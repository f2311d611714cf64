"""Fine-tuning by head: whose patterns and whose effects move when a small language model learns to rate sentences?

    python -m experiments.fine_tuning --positive FILE --negative FILE [--model NAME] [--quick] [--out DIR]

The question of Kovaleva et al. 2019 (arXiv 1908.08593, section 4.2), who compare the heads' patterns of BERT before and
after fine-tuning by cosine. Here a small causal model is given a sentence and " It was", and is trained to go on with
" good" or " bad". Every seed has its own order of the same sentences. Patterns (cosine, and Jensen–Shannon divergence
of their rows) and effects (mean ablation, on the logit of the right word less that of the wrong one) are compared
before and after, on sentences that no step used. The head that moves most is chosen on one half of them and reported on
the other. Controls: labels that are shuffled among the training sentences, and a model that starts from random weights.

--positive and --negative are files of one sentence a line: rt-polarity.pos and rt-polarity.neg of the sentence polarity
data (Pang & Lee 2005; `sentence_polarity` of NLTK's data, CC BY 4.0). Without them 24 sentences stand for them, which
only shows that the experiment works.

Found: see results/fine-tuning/summary.md, whose findings the run writes. Cost: about 4 minutes on 2 quiet cores.

--quick, under one minute, only shows that it runs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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

QUESTION, ANSWERS = " It was", (" bad", " good")
LONGEST = 40
CONDITIONS = ("fine-tuned", "shuffled labels", "from random weights")


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, the model and the sentences.

    Attributes:
        positive, negative: files of one sentence a line.
        model: a small causal language model, as `jh.load` takes it.
        sentences: training sentences.
        held_out: sentences that heads are compared on.
    """

    usual = (5, 120)
    short = (2, 2)
    out: Path = Path("results/fine-tuning")
    batch: int = 16
    rate: float = 1e-3
    positive: Path | None = None
    negative: Path | None = None
    model: str = "glassllm-en"
    sentences: int = 2000
    held_out: int = 256

    def check(self) -> None:
        """Raise ValueError for options that can't be meant."""
        super().check()
        if (self.positive is None) != (self.negative is None):
            raise ValueError("--positive, --negative: give both files, or neither")


@dataclass(frozen=True)
class Rated:
    """Sentences as a model reads them, with the question behind, and whether each is positive (1 or 0)."""

    batch: jh.Batch
    labels: np.ndarray
    answers: np.ndarray

    def task(self, labels: np.ndarray, name: str) -> Examples:
        """Return the task of going on with the answer that each label has."""
        mask = np.asarray(self.batch.mask)
        last = mask.sum(axis=1) - 1
        weights, targets = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.int32)
        weights[np.arange(len(last)), last] = 1
        targets[np.arange(len(last)), last] = self.answers[labels]
        return Examples(Sample(self.batch, targets, weights), name=name)  # type: ignore[arg-type]

    @property
    def objective(self) -> Any:
        """The logit of the right answer less that of the wrong one."""
        return jh.logit_difference(self.answers[self.labels], self.answers[1 - self.labels])


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


def rated(model: jh.Model, texts: Sequence[str], labels: np.ndarray) -> Rated:
    """Encode sentences with the question behind each; longer ones lose their ends, not the question."""
    question = _ids(model, QUESTION)
    rows = [_ids(model, text)[: LONGEST - len(question)] + question for text in texts]
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(LONGEST) < lengths[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(rows)
    answers = np.array([_ids(model, answer)[0] for answer in ANSWERS])
    if answers[0] == answers[1]:
        raise ValueError(f"{model.name}: the answers {ANSWERS} begin with one token: give another model")
    return Rated(jh.Batch(tokens, mask), labels, answers)


def _ids(model: jh.Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


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


def effects(model: jh.Model, held: Rated) -> tuple[np.ndarray, np.ndarray]:
    """Return the objective's change when each head is ablated, `[E,L,N]`, and whether each sentence is rated right."""
    table = jh.ablate(model, held.batch, held.objective, per_position=False, progress=False)
    last = np.asarray(held.batch.mask).sum(axis=1) - 1
    logits = np.asarray(jh.run(model, held.batch).output)[np.arange(len(last)), last][:, held.answers]
    return np.asarray(table.per_example), logits.argmax(axis=1) == held.labels


def compared(start: jh.Model, trained: Trained, held: Rated, condition: str) -> list[dict[str, Any]]:
    """Return a row for each seed: accuracy, and how far heads moved."""
    mask = np.asarray(held.batch.mask)
    before, (effect_before, right_before) = patterns(start, held.batch), effects(start, held)
    rows = []
    for seed in range(len(trained.runs.hyper)):
        model = trained.model(seed)
        moves = moved(before, patterns(model, held.batch), mask)
        effect, right = effects(model, held)
        row = {"condition": condition, "seed": seed, "accuracy": right.mean(), "accuracy before": right_before.mean()}
        rows.append(row | summary(moves, effect_before, effect, seed))
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
    model = jh.load(options.model)
    own, held = (rated(model, [texts[i] for i in part], labels[part]) for part in (training, test))
    shuffled = np.random.default_rng(1).permutation(own.labels)
    random = jh.random_weights(model, 1)
    asked = zip(CONDITIONS, (model, model, random), (own.labels, shuffled, own.labels), strict=True)
    seeds, steps = options.trained
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
        rows += compared(start, trained, held, condition)
        print(f"{condition}: accuracy {[round(float(row['accuracy']), 3) for row in rows[-seeds:]]}", flush=True)
    sizes = {"sentences": len(training), "held_out": len(test), "positive": float(held.labels.mean())}
    about = lab.provenance(model, files=files or "own sentences", **{**options.about, **sizes})
    return fine_tuning_page.results(pd.DataFrame(rows), model.stack().heads, about)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
