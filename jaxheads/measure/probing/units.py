"""Units of a probe: the words of sentences, or whole sentences, with their classes and those of a control task.

Dimension key: E sentences, B sentences of a batch, U units of a sentence, T tokens, W words.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...checks import one_of
from ...models.inputs.batch import Batch
from ...models.inputs.labels import NOTHING
from ...models.inputs.sentences import Sentence, Sentences

Control = Literal["word type", "shuffled"]
"""Control tasks: a class for each word type, drawn at random (Hewitt & Liang 2019), or for each unit."""

At = Literal["mean", "first", "last"]
"""Tokens that stand for a unit: the mean of all of them, the first, or the last."""


@dataclass(frozen=True, eq=False)
class Units:
    """The units of sentences with their classes, by sentence.

    Attributes:
        of_words: whether each word is a unit; else each sentence is one.
        names: what the classes' numbers stand for.
        classes: for each sentence the class of each unit; NOTHING for a unit without one.
        types: for each sentence the number of each unit's type: equal words have one, in any sentence.
    """

    of_words: bool
    names: tuple[str, ...]
    classes: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, sentences: Sentences, label: str) -> "Units":
        """Return the units of sentences, with their classes by a label of words, of links, or of sentences.

        A link's label is the class of its dependent: of several links, the first counts.

        Raises:
            ValueError: for a label that no sentence has.
        """
        names = sentences.names(label)
        number: dict[str | None, int] = {name: index for index, name in enumerate(names)}
        of_words = any(label in one.labels or label in one.links for one in sentences)
        classes = tuple(np.array([number.get(name, NOTHING) for name in _names(one, label)]) for one in sentences)
        words = [one.words if of_words else (one.text,) for one in sentences]
        order: dict[str, int] = {}
        types = tuple(np.array([order.setdefault(word, len(order)) for word in own]) for own in words)
        return cls(of_words, names, classes, types)

    def counts(self, indices: np.ndarray) -> np.ndarray:
        """Return the number of units of each class in these sentences."""
        own = np.concatenate([self.classes[index] for index in indices])
        return np.bincount(own[own >= 0], minlength=len(self.names))

    def control(self, kind: Control | None, chances: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """Return for each sentence the units' classes in the control task, drawn with these chances.

        Raises:
            ValueError: for an unknown control, or one by word types where units are no words.
        """
        kind = kind or ("word type" if self.of_words else "shuffled")
        one_of("control", kind, get_args(Control))
        if kind == "word type" and not self.of_words:
            raise ValueError("control: whole sentences have no word type; take control='shuffled'")
        rng = np.random.default_rng(seed)
        if kind == "word type":
            types = 1 + max(own.max() for own in self.types)
            drawn = rng.choice(len(chances), types, p=chances)
            return tuple(
                np.where(own < 0, own, drawn[types]) for own, types in zip(self.classes, self.types, strict=True)
            )
        return tuple(np.where(own < 0, own, rng.choice(len(chances), len(own), p=chances)) for own in self.classes)

    def common(self, indices: np.ndarray) -> np.ndarray:
        """Return the most frequent class of each type in these sentences; NOTHING for a type that they lack."""
        types = 1 + max(own.max() for own in self.types)
        counts = np.zeros((types, len(self.names)), np.int64)
        for index in indices:
            known = self.classes[index] >= 0
            np.add.at(counts, (self.types[index][known], self.classes[index][known]), 1)
        return np.where(counts.any(axis=1), counts.argmax(axis=1), NOTHING)

    def array(self, rows: Sequence[np.ndarray], indices: np.ndarray, width: int) -> np.ndarray:
        """Return rows of these sentences as an array `[B,U]`, NOTHING beyond the last."""
        array = np.full((len(indices), width), NOTHING, np.int32)
        for own, index in zip(array, indices, strict=True):
            own[: len(rows[index])] = rows[index]
        return array

    def width(self, batch: Batch) -> int:
        """Return the number of units that the arrays of a batch have room for."""
        return -(-(int(np.asarray(batch.words).max(initial=0)) + 1) // 8) * 8 if self.of_words else 1


def token_shares(batch: Batch, at: At, width: int | None) -> np.ndarray:
    """Return the share of each token in its unit, `[B,U,T]`; the shares of a unit add up to 1, or 0 without a token.

    Args:
        width: U, where units are words; None where each example is one unit. Special tokens then count as its first
            and last, but not in its mean.
    """
    words_BT, mask_BT = np.asarray(batch.words), np.asarray(batch.mask)
    if width is None:
        own_BUT = ((words_BT >= 0) & mask_BT if at == "mean" else mask_BT)[:, None]
    else:
        own_BUT = (words_BT[:, None] == np.arange(width)[:, None]) & mask_BT[:, None]
    if at != "mean":
        ordered = own_BUT if at == "first" else own_BUT[..., ::-1]
        chosen = ordered & (np.cumsum(ordered, axis=-1) == 1)
        own_BUT = chosen if at == "first" else chosen[..., ::-1]
    return (own_BUT / np.maximum(own_BUT.sum(axis=-1, keepdims=True), 1)).astype(np.float32)


def documents(sentences: Sentences, most: int) -> np.ndarray:
    """Return the number of each sentence's document, below `most`; a sentence without one is a document by itself."""
    names = [one.text if one.document is None else f"document {one.document}" for one in sentences]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] % most for name in names])


def document_part(sentences: Sentences, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return the part that each sentence belongs to, by a hash of its document's name: parts of these shares.

    The parts of two questions about one corpus are the same.
    """
    names = [one.text if one.document is None else f"document {one.document}" for one in sentences]
    order = sorted(dict.fromkeys(names), key=lambda name: zlib.crc32(f"{seed} {name}".encode()))
    ends = np.cumsum(shares)[:-1] / np.sum(shares) * len(order)
    part = {name: int(np.searchsorted(ends, number, side="right")) for number, name in enumerate(order)}
    return np.array([part[name] for name in names])


def _names(sentence: Sentence, label: str) -> list[str | None]:
    if label in sentence.properties:
        return [sentence.properties[label]]
    if label in sentence.links:
        links = {link.dependent: link.label for link in reversed(sentence.links[label])}
        return [links.get(word) for word in range(len(sentence.words))]
    return list(sentence.labels.get(label, (None,) * len(sentence.words)))
