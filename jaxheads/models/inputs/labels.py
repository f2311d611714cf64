"""What is known of the words of a batch's sentences, as arrays beside the names that their numbers stand for.

Dimension key: B examples, W words, P links of an example.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax import Array

from ...checks import one_of
from ...programs import to_device
from .sentences import Sentence

NOTHING = -1
"""Number of a word (or example) without a label. A root's head has it, too: it is no word."""

FILLER = -2
"""Entry of `links` where an example has fewer than another."""


@partial(jax.tree_util.register_dataclass, data_fields=("words", "examples", "links"), meta_fields=("known",))
@dataclass(frozen=True, eq=False)
class Labels(Mapping[str, Array]):
    """Labels of words, of examples, and links between words; `labels["upos"]` is any of them, by name.

    Attributes:
        words: by name, the label of each word, int32 `[B,W]`; NOTHING for a word without one, and beyond the last.
        examples: by name, the label of each example, int32 `[B]`; NOTHING without one.
        links: by name, relations `[B,P,3]` of dependent, head (NOTHING: it is the root) and label; FILLER beyond the
            last.
        known: pairs of a name and its labels' names in order; see `names`.
    """

    words: dict[str, Array]
    examples: dict[str, Array]
    links: dict[str, Array]
    known: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """By name, what the numbers of its labels stand for."""
        return dict(self.known)

    def __getitem__(self, name: str) -> Array:
        fields = {**self.examples, **self.words, **self.links}
        one_of("the name of labels", name, fields)
        return fields[name]

    def __contains__(self, name: object) -> bool:
        return name in (*self.words, *self.examples, *self.links)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.words, *self.examples, *self.links]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def labels_of(sentences: Sequence[Sentence], names: Mapping[str, Sequence[str]]) -> Labels:
    """Return the labels of sentences as arrays, numbered as `names` lists them; labels beyond those are left out."""
    numbers = {name: {value: number for number, value in enumerate(values)} for name, values in names.items()}
    B, W = len(sentences), _rounded(max(len(one.words) for one in sentences))

    def of(kind: str) -> list[str]:
        return [name for name in names if any(name in getattr(one, kind) for one in sentences)]

    words = {name: np.full((B, W), NOTHING, np.int32) for name in of("labels")}
    examples = {name: np.full(B, NOTHING, np.int32) for name in of("properties")}
    links = {}
    for name in of("links"):
        rows = [
            [
                (link.dependent, link.head, numbers[name][link.label])
                for link in one.links.get(name, ())
                if link.label in numbers[name]
            ]
            for one in sentences
        ]
        links[name] = np.full((B, _rounded(max(map(len, rows))), 3), FILLER, np.int32)
        for row, own in zip(links[name], rows, strict=True):
            row[: len(own)] = np.array(own, np.int32).reshape(-1, 3)
    for index, one in enumerate(sentences):
        for name, array in words.items():
            own = one.labels.get(name, ())
            array[index, : len(own)] = [
                NOTHING if value is None else numbers[name].get(value, NOTHING) for value in own
            ]
        for name, array in examples.items():
            array[index] = numbers[name].get(one.properties.get(name, ""), NOTHING)
    known = tuple((name, tuple(values)) for name, values in names.items())
    return Labels(_placed(words), _placed(examples), _placed(links), known)


def _rounded(count: int) -> int:
    """Return a number of words or links that is one of few: each would be a program of its own."""
    return -(-max(count, 1) // 8) * 8


def _placed(arrays: Mapping[str, np.ndarray]) -> dict[str, Array]:
    return {name: to_device(array) for name, array in arrays.items()}
