"""The pairs of words that a relation joins, as queries and keys of patterns over words, and the best fixed offset.

Dimension key: B examples, W words (special tokens among them), P pairs, R relations, O offsets, G groups of documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import one_of
from ...models.inputs.batch import Batch
from ...models.inputs.labels import NOTHING
from ...models.inputs.sentences import Sentences
from ..patterns.word_pooling import Words

DIRECTIONS = ("to_head", "to_dependent")
"""What a query looks at: a dependent at its head, or a head at its dependent."""

OFFSETS = tuple(offset for offset in range(-16, 17) if offset)
"""Fixed distances in words that heads are compared with."""


@dataclass(frozen=True)
class Relation:
    """How the pairs of a relation are found in sentences' labels.

    Attributes:
        links: the links' name ("deprel", "coref").
        words: the name of the dependent's label that names the relation; None where the link's own label does.
        names: names of the relations, R.
    """

    links: str
    words: str | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Sentences, labels: str) -> "Relation":
        """Return the relations that a name of labels stands for: links', or words', whose links are the tree's.

        Raises:
            ValueError: for a name that the sentences do not have, or labels of words without a tree.
        """
        links = list(dict.fromkeys(name for one in sentences for name in one.links))
        words = list(dict.fromkeys(name for one in sentences for name in one.labels))
        one_of("labels", labels, [*links, *words])
        if labels in links:
            names = sentences.names(labels)
            return cls(labels, None, tuple(name for name in names if name != "root"))
        if "deprel" not in links:
            raise ValueError(f"labels={labels!r} are of words, whose relation is that to their heads: give a treebank")
        return cls("deprel", labels, sentences.names(labels))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a query and a key that a batch's relations join, each once.

    Attributes:
        queries, keys: indices of words, `[B,2,P]`, by direction; -1 where there is no pair.
        labels: the relation, `[B,2,P]`, 0 to R - 1.
        counts: queries of each relation, `[B,2,R]`: a word with several keys by one relation is one query.
        offsets: of these, those with a right key at each offset, `[B,2,R,O]`.
    """

    queries: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, batch: Batch, words: Words, relation: Relation, *, causal: bool) -> "Pairs":
        """Return the pairs of a batch; with `causal`, those whose key comes before the query."""
        assert batch.labels is not None, "sentences are encoded with their labels"
        if relation.links not in batch.labels:
            links_BP3: np.ndarray = np.full((len(batch), 1, 3), -2)
        else:
            links_BP3 = np.asarray(batch.labels[relation.links])
        known = batch.labels.names[relation.words or relation.links]
        of_words = None if relation.words is None else np.asarray(batch.labels[relation.words])
        number = {label: relation.names.index(name) for label, name in enumerate(known) if name in relation.names}
        rows: list[tuple[set[tuple[int, int, int]], set[tuple[int, int, int]]]] = []
        for example, links in enumerate(links_BP3.tolist()):
            place = {word: index for index, word in enumerate(words.numbers[example].tolist()) if word >= 0}
            found: tuple[set[Any], set[Any]] = (set(), set())
            for dependent, head, own in links:
                label = own if of_words is None or dependent < 0 else int(of_words[example, dependent])
                if label == NOTHING or label not in number or dependent not in place or head not in place:
                    continue
                low, high = place[dependent], place[head]
                for direction, (query, key) in enumerate(((low, high), (high, low))):
                    if not causal or key < query:
                        found[direction].add((query, key, number[label]))
            rows.append(found)
        return cls._of_rows(rows, len(relation.names))

    @classmethod
    def _of_rows(cls, rows: Sequence[tuple[set[tuple[int, int, int]], ...]], R: int) -> "Pairs":
        B, P = len(rows), max(8, -(-max(len(own) for row in rows for own in row) // 8) * 8)
        fields = np.full((3, B, 2, P), -1, np.int32)
        counts, offsets = np.zeros((B, 2, R), np.int64), np.zeros((B, 2, R, len(OFFSETS)), np.int64)
        for example, row in enumerate(rows):
            for direction, own in enumerate(row):
                pairs = sorted(own)
                fields[:, example, direction, : len(pairs)] = np.array(pairs, np.int32).reshape(-1, 3).T
                for _, label in {(query, label) for query, _, label in pairs}:
                    counts[example, direction, label] += 1
                for query, key, label in pairs:
                    if key - query in OFFSETS:
                        offsets[example, direction, label, OFFSETS.index(key - query)] += 1
        queries, keys, labels = fields
        return cls(queries, keys, labels, counts, offsets)


def best_offsets(offsets_G2RO: np.ndarray, half_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits of the best fixed offset, which the other half chose, `[G,2,R]`, and that of all, `[2,R]`.

    Args:
        offsets_G2RO: queries with a right key at each offset.
        half_G: the half, 0 or 1, that each group of documents belongs to.
    """
    hits = np.zeros(offsets_G2RO.shape[:3])
    for half in (0, 1):
        chosen_2R1 = offsets_G2RO[half_G != half].sum(axis=0).argmax(axis=-1)[..., None]
        own = offsets_G2RO[half_G == half]
        hits[half_G == half] = np.take_along_axis(own, np.broadcast_to(chosen_2R1, (*own.shape[:3], 1)), -1)[..., 0]
    return hits, np.asarray(OFFSETS)[offsets_G2RO.sum(axis=0).argmax(axis=-1)]


def column_names(relation: Relation) -> Mapping[str, tuple[int, int]]:
    """Return the direction and relation of each column."""
    return {
        f"{name}_{direction}": (number, index)
        for index, name in enumerate(relation.names)
        for number, direction in enumerate(DIRECTIONS)
    }
