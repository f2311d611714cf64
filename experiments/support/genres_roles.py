"""Roles of heads for `experiments.genres`: what they are read by, on a text as it is and changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentence, Sentences, ordinary_tokens, repeated_tokens

from .genres_readings import Sums, agreement, batches, hits, moved_vectors, names_of, of_sentences, offsets, words_read

INTACT = "intact"
KINDS = ("lower", "typos", "nonce", "shuffled")
CONDITIONS: tuple[str, ...] = (INTACT, *KINDS)
GAIN = 0.1
"""Gain over the best offset, on the half that chooses, from which a relation is a role."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sentences of all conditions, in one order.

    Attributes:
        texts: by condition, the same sentences.
        seed: of the halves and of all draws.
        fewest: least number of words of a relation in the half that chooses.
        effects: sentences of a half that effects are taken on.
        resume: folder of finished parts.
    """

    texts: dict[str, Sentences]
    seed: int
    fewest: int
    effects: int
    resume: Path

    @cached_property
    def documents(self) -> list[str]:
        """The documents, in the order of their first sentence."""
        return names_of(self.texts[INTACT])

    @cached_property
    def genres(self) -> list[str]:
        """The genre of each document."""
        known = {str(one.document): one.properties.get("genre", "") for one in self.texts[INTACT]}
        return [known[name] for name in self.documents]

    @cached_property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Which documents choose, and which report."""
        reporting = {str(one.document) for one in jh.half_of(self.texts[INTACT], 1, seed=self.seed)}
        half = np.array([name in reporting for name in self.documents])
        return ~half, half

    def sums(self, values: np.ndarray, sentences: Sentences) -> Sums:
        """Return values of sentences as sums by document."""
        return of_sentences(values, [str(one.document) for one in sentences], self.documents)


@dataclass(frozen=True, eq=False)
class Role:
    """What heads are read by, in all conditions.

    Attributes:
        name: its name.
        kind: "relation", "pattern" or "effect".
        head: the head that has it.
        heads: by condition, the sums of all heads.
        offsets: by condition, the words that each fixed offset is right for; None where there is none.
    """

    name: str
    kind: str
    head: tuple[int, int]
    heads: dict[str, Sums]
    offsets: dict[str, Sums] | None = None

    def base(self, condition: str, choosing: np.ndarray) -> Sums | None:
        """Return the words that the offset is right for which these documents choose."""
        if self.offsets is None:
            return None
        own = self.offsets[condition]
        return Sums(own.sums[:, own.sums[choosing].sum(axis=0).argmax()], own.counts)


def relation_roles(model: jh.Model, corpus: Corpus, texts: dict[str, Sentences]) -> Iterator[Role]:
    """Yield the relations and directions that a head of the choosing half gains in, with its readings of the texts."""
    choosing, causal, least = corpus.halves[0], model.stack().causal, corpus.fewest
    tables = {
        condition: jh.relations(model, text, least=1, seed=corpus.seed, resume=corpus.resume / "relations")
        for condition, text in texts.items()
    }
    read = {condition: words_read(model, text) for condition, text in texts.items()}
    for column in tables[INTACT].metrics:
        relation, _, direction = column.rpartition("_to_")
        if direction not in ("head", "dependent"):
            continue
        asked: Any = (relation, f"to {direction}")
        fixed = {
            condition: offsets(text, *asked, causal=causal, read=read[condition]) for condition, text in texts.items()
        }
        if fixed[INTACT].counts[choosing].sum() < least or any(column not in own.metrics for own in tables.values()):
            continue
        heads = {condition: hits(own, column, fixed[condition].counts) for condition, own in tables.items()}
        role = Role(" ".join(asked), "relation", best(heads[INTACT], choosing), heads, fixed)
        if (heads[INTACT].head(*role.head) - base_of(role, INTACT, choosing)).mean(choosing) >= GAIN:
            yield role


def best(heads: Sums, documents: np.ndarray) -> tuple[int, int]:
    """Return the head with the largest mean over documents."""
    mean = heads.mean(documents)
    layer, head = np.unravel_index(int(np.nanargmax(mean)), mean.shape)
    return int(layer), int(head)


def pattern_roles(model: jh.Model, corpus: Corpus) -> Iterator[Role]:
    """Yield the roles of patterns: the previous token on the text, two more on each sentence read twice."""
    names = ["duplicate_token", *(["induction"] if model.stack().causal else [])]
    asked: list[tuple[list[str], Callable[[Sentences], Sentences]]] = [(["previous_token"], lambda own: own)]
    asked.append((names, lambda own: Sentences(tuple(map(twice, own)))))
    for metrics, change_of in asked:
        heads: dict[str, dict[str, Sums]] = {name: {} for name in metrics}
        for condition, text in corpus.texts.items():
            table = jh.measure(model, batches(model, change_of(text)), metrics, resume=corpus.resume / "patterns")
            for name, values in zip(metrics, np.asarray(table.per_example), strict=True):
                heads[name][condition] = corpus.sums(values, text)
        for name in metrics:
            head = (
                induction_head(model, corpus.seed)
                if name == "induction"
                else best(heads[name][INTACT], corpus.halves[0])
            )
            yield Role(name.replace("_", " "), "pattern", head, heads[name])


def twice(one: Sentence) -> Sentence:
    """Return a sentence that is read twice in a row."""
    spaces = one.spaces or (True,) * len(one.words)
    return Sentence(one.words * 2, (*spaces[:-1], True, *spaces), document=one.document)


def induction_head(model: jh.Model, seed: int) -> tuple[int, int]:
    """Return the head with the highest induction score on random repeats."""
    ids, room = ordinary_tokens(model), model.config.max_position_embeddings or 24
    avoid = np.setdiff1d(np.arange(model.config.vocab_size), ids)
    drawn = repeated_tokens(
        model.config.vocab_size,
        examples=8,
        shortest=4,
        longest=min(12, len(ids), room // 2),
        avoid=avoid.tolist(),
        seed=seed,
    )
    values = jh.measure(model, jh.Batch(drawn.tokens, drawn.mask), "induction", progress=False).values
    layer, head = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return int(layer), int(head)


def spread_over(corpus: Corpus, half: np.ndarray, count: int) -> list[int]:
    """Return the indices of sentences from a half's documents in turn, in the order of the sentences."""
    names = {name for name, own in zip(corpus.documents, half, strict=True) if own}
    by_document: dict[str, list[int]] = {}
    for index in np.random.default_rng(corpus.seed).permutation(len(corpus.texts[INTACT])).tolist():
        document = str(corpus.texts[INTACT][index].document)
        if document in names:
            by_document.setdefault(document, []).append(index)
    rounds = max(map(len, by_document.values()))
    order = [own[turn] for turn in range(rounds) for own in by_document.values() if turn < len(own)]
    return sorted(order[:count])


Heads = list[tuple[int, int]]


def effects(model: jh.Model, corpus: Corpus, heads: Heads) -> tuple[list[Role], pd.DataFrame]:
    """Return the effects of heads by condition, and how all heads' effects agree with those on the choosing half."""
    parts = [spread_over(corpus, half, corpus.effects) for half in corpus.halves]
    asked = [(INTACT, 0), *((condition, 1) for condition in CONDITIONS)]

    def read(of: Callable[[Sentences, Sentences], np.ndarray]) -> list[Sums]:
        found = []
        for condition, half in asked:
            own, other = (corpus.texts[condition].take(parts[which]) for which in (half, 1 - half))
            found.append(corpus.sums(of(own, other), own))
        return found

    if model.stack().causal:
        every = read(lambda own, other: derivatives(model, own, corpus.resume / "derivatives"))
        ablated = read(lambda own, other: ablations(model, own, other, heads, corpus.resume / "effects"))
    else:
        ablated = every = read(lambda own, other: moved_vectors(model, own, other))
    agreed = pd.DataFrame(
        {"text": condition, **agreement(every[0], own, corpus.halves)}
        for condition, own in zip(CONDITIONS, every[1:], strict=True)
    )
    # The text as it is has both halves: genres are compared on all documents.
    by_condition = dict(zip(CONDITIONS, [ablated[0] + ablated[1], *ablated[2:]], strict=True))
    return [Role(f"effect of L{layer}H{head}", "effect", (layer, head), by_condition) for layer, head in heads], agreed


def derivatives(model: jh.Model, sentences: Sentences, resume: Path) -> np.ndarray:
    """Return the size of the derivative of the loss by each head's gate, `[E,L,N]`."""
    return np.asarray(jh.importance(model, batches(model, sentences), jh.loss(), resume=resume).per_example)


def ablations(model: jh.Model, sentences: Sentences, reference: Sentences, heads: Heads, resume: Path) -> np.ndarray:
    """Return the change of the loss when a head has its mean over the reference, `[E,L,N]`; NaN for other heads."""
    sets = {f"L{layer}H{head}": [(layer, head)] for layer, head in heads}
    stream, inner = batches(model, sentences), {"reference": model.encode(reference), "per_position": False}
    table = jh.ablate(model, stream, jh.loss(), sets=sets, resume=resume, **inner)
    values = np.asarray(table.per_example)
    every = np.full((len(values), model.stack().layers, model.stack().heads), np.nan)
    every[:, [layer for layer, _ in heads], [head for _, head in heads]] = values
    return every


def base_of(role: Role, condition: str, choosing: np.ndarray) -> Sums:
    """Return the words of a relation that the offset is right for which these documents choose."""
    base = role.base(condition, choosing)
    assert base is not None, "a relation has offsets"
    return base
