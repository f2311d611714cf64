"""Function vectors and induction heads: which heads carry a task from its examples to its answers?

    python -m experiments.function_vectors [--tasks FOLDER] [--model NAME] [--prompts N] [--quick] [--out DIR]

After Todd et al. 2023 (arXiv 2310.15213) and Yin & Steinhardt 2025 (arXiv 2502.14010). Each task is a list of inputs
and outputs ("hot", "cold"). A head's effect is the rise of the answer's probability in prompts of shuffled labels, when
its output at the last token is its mean over prompts of right labels; of an answer the first token counts. Induction
heads are those that attend, in repeated random tokens, to what followed the earlier copy.

The pairs of each task are split in two. One half makes the prompts that choose the heads and give the mean outputs, the
other those that report everything, so no pair is in both. Then the heads of each kind are removed together (mean
ablation at all positions) from prompts of right labels, beside random heads of the function-vector heads' layers. Last,
what the chosen heads write is added to bare questions, after a third of the layers, beside what the random heads write.
Controls: means over prompts of shuffled labels in place of right ones, and the same model with random weights.

--tasks is a folder of JSON files, each a list of {"input": …, "output": …}: those of `dataset_files/abstractive` in
github.com/ericwtodd/function_vectors (MIT). Without it three tasks of a dozen pairs stand for them, which only shows
that the experiment works.

Found: see results/function-vectors/summary.md, whose findings the run writes. Cost on 2 quiet cores: minutes.

--quick, under one minute, only shows that it runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import FewShot, columns, few_shot
from jaxheads.report import repeats
from jaxheads.statistics import Interval, mean_interval, split_halves
from jaxheads.tables import Column

from . import lab
from .support import function_vectors_page

Heads = list[tuple[int, int]]
Pairs = list[tuple[str, str]]

OWN: Mapping[str, str] = {
    "opposite": "hot cold, big small, up down, in out, day night, old new, fast slow, rich poor, wet dry, good bad, "
    "left right, open closed",
    "plural": "cat cats, dog dogs, tree trees, car cars, house houses, book books, girl girls, boy boys, hand hands, "
    "bird birds, king kings, door doors",
    "past": "walk walked, play played, call called, open opened, ask asked, work worked, help helped, look looked, "
    "talk talked, jump jumped, turn turned, kick kicked",
}
"""Tasks for a run without --tasks."""

RANDOM_SETS = 3
REPEATED, LONGEST = 32, 20


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        tasks: a folder of tasks, one JSON file each.
        model: a causal language model, as `jh.load` takes it.
        prompts: prompts of each task that choose, and as many that report.
        shots: examples of a prompt.
        top: heads of each kind.
        seed: of prompts and random heads.
    """

    out: Path = Path("results/function-vectors")
    tasks: Path | None = None
    model: str = "smollm2-135m"
    prompts: int = 4
    shots: int = 5
    top: int = 10
    seed: int = 0

    @property
    def size(self) -> tuple[int, int, int]:
        """Prompts, examples of a prompt and heads of this run."""
        return (1, 2, min(self.top, 2)) if self.quick else (self.prompts, self.shots, self.top)


@dataclass(frozen=True)
class Asked:
    """The prompts of a task that choose heads, and those that report."""

    choosing: FewShot
    reporting: FewShot


def read_tasks(folder: Path | None) -> tuple[dict[str, Pairs], dict[str, str]]:
    """Return the pairs of each task by name, and the sha256 of each file.

    Raises:
        ValueError: for a folder without JSON files, and what `jh.data.columns` refuses.
    """
    if folder is None:
        return {name: [tuple(pair.split()) for pair in pairs.split(", ")] for name, pairs in OWN.items()}, {}  # type: ignore[misc]
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"--tasks: expected a folder of .json files, each a list of inputs and outputs; got {folder}")
    tables = {path.stem: columns(path, text="input", labels=("output",)) for path in paths}
    files = {name: own for table in tables.values() for name, own in table.files.items()}
    return {name: [(own.text, own.properties["output"]) for own in table] for name, table in tables.items()}, files


def ask(tasks: Mapping[str, Pairs], prompts: int, shots: int, seed: int) -> dict[str, Asked]:
    """Draw the prompts of each task, from its two halves of pairs.

    Pairs of one input (or of one input as another's output, as "up down" and "down up" are) go to one half.
    """
    asked = {}
    for name, pairs in tasks.items():
        halves = split_halves(len(pairs), seed, _kin(pairs))
        few = [few_shot([pairs[i] for i in half], prompts=prompts, shots=shots, seed=seed) for half in halves]
        asked[name] = Asked(*few)
    return asked


def _kin(pairs: Pairs) -> np.ndarray:
    """Return a label for each pair: equal where two share their words, in either order."""
    words = {frozenset(text.lower() for text in pair) for pair in pairs}
    number = {pair: index for index, pair in enumerate(sorted(words, key=sorted))}
    return np.array([number[frozenset(text.lower() for text in pair)] for pair in pairs])


def effects_of(model: jh.Model, clean: FewShot, asked: FewShot, resume: Path, *, of: str = "clean") -> Any:
    """Return the function vectors of one task: mean outputs over `clean`, effects in `asked`."""
    return jh.function_vectors(model, list(getattr(clean, of)), list(asked.shuffled), asked.answers, resume=resume)


def examples_of(found: Sequence[Any]) -> np.ndarray:
    """Return the effects of all tasks' prompts, `[E,L,N]`."""
    return np.concatenate([own.effects.per_example for own in found])


def best(values_LN: np.ndarray, count: int) -> Heads:
    """Return the (layer, head) pairs of the largest values, the largest first."""
    order = np.argsort(-values_LN, axis=None, kind="stable")[:count]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, values_LN.shape), strict=True)]


def random_sets(heads: Heads, taken: set[tuple[int, int]], width: int, seed: int) -> list[Heads]:
    """Draw sets with as many heads of each layer as `heads` has, without the heads that are taken."""
    rng, sets = np.random.default_rng(seed), []
    for _ in range(RANDOM_SETS):
        chosen: Heads = []
        for layer, _ in heads:
            free = [h for h in range(width) if (layer, h) not in taken and (layer, h) not in chosen]
            free = free or [h for h in range(width) if (layer, h) not in chosen]
            chosen.append((layer, int(rng.choice(free))))
        sets.append(chosen)
    return sets


def sets_of(vectors: Heads, inductive: Heads, width: int, seed: int) -> dict[str, Heads]:
    """Return the sets that are removed: each kind, each without what it shares with the other, random heads."""
    sets = {"function-vector heads": vectors, "induction heads": inductive}
    for name, own, other in (("function-vector", vectors, inductive), ("induction", inductive, vectors)):
        if left := [head for head in own if head not in other]:
            sets[f"{name} heads alone"] = left
    randoms = random_sets(vectors, {*vectors, *inductive}, width, seed)
    return sets | {f"random heads {number}": own for number, own in enumerate(randoms)}


def removed(
    model: jh.Model, asked: Mapping[str, Asked], sets: Mapping[str, Heads], resume: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Remove each set of heads from prompts of right labels; return the unedited log-probabilities and the changes.

    Heads get their mean over the task's choosing prompts. Shapes `[E]` and `[E,S]`.
    """
    before, changes = [], []
    for own in asked.values():
        prompts, objective = list(own.reporting.clean), jh.answer_log_probability(list(own.reporting.answers))
        reference = list(own.choosing.clean)
        table = jh.ablate(model, prompts, objective, sets=sets, reference=reference, per_position=False, resume=resume)
        before.append(np.full(len(prompts), table.provenance["unedited"]))
        changes.append(np.asarray(table.per_example))
    return np.concatenate(before), np.concatenate(changes)


def answered(model: jh.Model, prompts: Sequence[str], answers: Sequence[str], edit: Any = None) -> np.ndarray:
    """Return log-probability and rank-one hit of each answer's first token after each prompt, `[E,2]`."""
    batch = model.encode(list(prompts), side="left")  # all prompts end at the last position
    edits = () if edit is None else (edit(batch),)
    output_EV = np.asarray(jh.run(model, batch, edits=edits).output, np.float32)[:, -1]
    log_p_EV = np.asarray(jax.nn.log_softmax(output_EV))
    tokens_E = np.array([model.tokenizer(own, add_special_tokens=False)["input_ids"][0] for own in answers])
    return np.stack([log_p_EV[np.arange(len(tokens_E)), tokens_E], log_p_EV.argmax(axis=-1) == tokens_E], axis=1)


def _steered(model: jh.Model, vector: np.ndarray, layer: int, batch: jh.Batch) -> Any:
    """Return the edit that adds a vector at the last token of prompts that end together."""
    assert batch.tokens is not None
    last = batch.tokens.shape[1] - 1
    return jh.steer(model, "resid_post", vector[None, None], layers=layer, positions=last, batch=batch)


def added(model: jh.Model, asked: Mapping[str, Asked], found: Mapping[str, Any], sets: Mapping[str, Heads]) -> Any:
    """Add what sets of heads write to bare questions after a third of the layers; return hits and log-probabilities.

    Those of the sets of random heads are averaged.
    """
    layer = max(0, model.stack().layers // 3)
    rows = []
    for name, own in asked.items():
        few = own.reporting
        results = {"examples": answered(model, few.clean, few.answers), "bare": answered(model, few.bare, few.answers)}
        randoms = []
        for kind, heads in sets.items():
            vector = found[name].vector(heads)
            values = answered(model, few.bare, few.answers, partial(_steered, model, vector, layer))
            if kind.startswith("random"):
                randoms.append(values)
            else:
                results[kind] = values
        results[function_vectors_page.RANDOM] = np.mean(randoms, axis=0)
        for kind, values in results.items():
            for number, (log_p, hit) in enumerate(values):
                rows.append({"task": name, "prompt": number, "with": kind, "log p": log_p, "right": hit})
    return pd.DataFrame(rows)


def induction(model: jh.Model, seed: int, examples: int, resume: Path) -> np.ndarray:
    """Return each head's induction score in repeated random tokens, `[E,L,N]`."""
    drawn = repeats(model, examples=examples, longest=LONGEST, seed=seed)
    table = jh.measure(model, drawn.batch, "induction", resume=resume)
    values = np.asarray(table.per_example)
    return values[0] if values.ndim == 4 else values


def interval(values: np.ndarray, labels: np.ndarray, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Return the mean over examples with its interval over clusters, the tasks."""
    return mean_interval(values, clusters=labels, within=within)


def run(options: Options) -> lab.Results:
    """Find both kinds of heads, remove them, add their vectors."""
    tasks, files = read_tasks(options.tasks)
    prompts, shots, top = options.size
    model = jh.load(options.model)
    if not model.causal or model.tokenizer is None:
        raise ValueError(f"{model.name}: function vectors need a causal language model with a tokenizer")
    asked, resume = ask(tasks, prompts, shots, options.seed), options.unfinished
    labels = np.repeat(np.arange(len(asked)), prompts)
    choosing = {name: effects_of(model, own.choosing, own.choosing, resume) for name, own in asked.items()}
    reporting = [effects_of(model, own.choosing, own.reporting, resume) for own in asked.values()]
    wrong = [effects_of(model, own.choosing, own.reporting, resume, of="shuffled") for own in asked.values()]
    scrambled = jh.random_weights(model, options.seed + 1)
    few = dict(list(asked.items())[:3])
    chance = [effects_of(scrambled, own.choosing, own.reporting, resume) for own in few.values()]
    scores = induction(model, options.seed, 4 if options.quick else REPEATED, resume)
    table = heads_table(
        model, examples_of(list(choosing.values())), examples_of(reporting), examples_of(wrong), labels, scores
    )
    first, second = split_halves(len(scores), options.seed)
    vectors = best(examples_of(list(choosing.values())).mean(axis=0), top)
    inductive = best(scores[first].mean(axis=0), top)
    sets = sets_of(vectors, inductive, model.stack().heads, options.seed)
    before, changes = removed(model, asked, sets, resume)
    steered = added(model, asked, choosing, {name: own for name, own in sets.items() if not name.endswith("alone")})
    found = function_vectors_page.Findings(
        table=table,
        vectors=vectors,
        inductive=inductive,
        scores=scores[second].mean(axis=0),
        chance=examples_of(chance),
        sets=sets,
        before=before,
        changes=changes,
        labels=labels,
        tasks=tuple(asked),
        steered=steered,
    )
    about = lab.provenance(
        model, seed=options.seed, prompts=prompts, shots=shots, top=top, tasks=list(asked), files=files or "own pairs"
    )
    return function_vectors_page.results(found, about)


def heads_table(
    model: jh.Model,
    choosing: np.ndarray,
    reporting: np.ndarray,
    wrong: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
) -> jh.HeadTable:
    """Return a row for each head: its effect on both halves, with the wrong means, and its induction score."""
    named = {"effect": reporting, "effect_when_choosing": choosing, "effect_of_shuffled": wrong}
    made = {
        name: Column(*interval(values, labels, (-1, 1)), per_example=values, range=(-1.0, 1.0))
        for name, values in named.items()
    }
    return jh.HeadTable.from_columns(
        "function_vectors",
        model.stack().name,
        made,
        {"model": model.name},
        extras={"induction": scores.mean(axis=0)},
        clusters=labels,
    )


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
