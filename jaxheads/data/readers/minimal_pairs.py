"""Minimal pairs: two sentences that differ in one property, one of which is right (BLiMP)."""

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...arguments import checked
from ...checks import shown
from ...models.inputs.sentences import Sentence, Sentences
from .lines import Line, TextFile, read_lines

GOOD, BAD = "sentence_good", "sentence_bad"

PROPERTIES = {"UID": "paradigm", "linguistics_term": "phenomenon", "field": "field"}
"""Properties of a pair by the name of BLiMP's field."""


@dataclass(frozen=True, eq=False)
class MinimalPairs:
    """Pairs of a right and a wrong sentence, in their order.

    Attributes:
        good, bad: the sentences, as many of each.
        files: by file's name, the sha256 of what was read.
    """

    good: Sentences
    bad: Sentences
    files: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.good)

    @property
    def changed(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Indices of the words that differ, in the good and in the bad sentence of each pair."""
        return [_changed(good.words, bad.words) for good, bad in zip(self.good, self.bad, strict=True)]

    @checked()
    def names(self, name: str) -> tuple[str, ...]:
        """Return the values of a property, such as "paradigm"."""
        return self.good.names(name)

    @checked()
    def where(self, name: str, value: str) -> "MinimalPairs":
        """Return the pairs with this value of a property ("paradigm", "phenomenon").

        Raises:
            ValueError: for a property or a value that no pair has.
        """
        if value not in self.good.names(name):
            raise ValueError(f"{name}: expected one of {', '.join(self.good.names(name))}; got {value!r}")
        return self.take([number for number, one in enumerate(self.good) if one.properties.get(name) == value])

    @checked()
    def take(self, indices: Sequence[int]) -> "MinimalPairs":
        """Return the pairs with these indices, in their order."""
        return MinimalPairs(self.good.take(indices), self.bad.take(indices), self.files)


@checked()
def pairs(path: str | os.PathLike) -> MinimalPairs:
    """Read minimal pairs: a file of one JSON object a line, or a folder of such files (BLiMP; Warstadt et al. 2020).

    Each object has "sentence_good" and "sentence_bad"; "UID", "linguistics_term" and "field" become the properties
    "paradigm", "phenomenon" and "field". Words are what stands between spaces, a final mark of punctuation by itself.

    Raises:
        FileNotFoundError: for a path that is not there, or a folder without .jsonl files.
        ValueError: with file and line, for what is no such object, an empty sentence, or two equal ones.
    """
    folder = os.fspath(path)
    paths = [folder]
    if os.path.isdir(folder):
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".jsonl")]
        if not paths:
            raise FileNotFoundError(f"{os.path.basename(folder)} has no .jsonl files")
    good: list[Sentence] = []
    bad: list[Sentence] = []
    files = {}
    for own in paths:
        file = read_lines(own)
        files[file.name] = file.sha256
        for line in file.lines:
            if line.text.strip():
                first, second = _pair(line, file)
                good.append(first)
                bad.append(second)
    return MinimalPairs(Sentences(tuple(good), files), Sentences(tuple(bad), files), files)


def _pair(line: Line, file: TextFile) -> tuple[Sentence, Sentence]:
    place = file.at(line.number)
    try:
        entry = json.loads(line.text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: expected a JSON object, got {shown(line.text[:60])} ({error.msg})") from None
    given = [entry.get(name) for name in (GOOD, BAD)] if isinstance(entry, dict) else []
    texts = [text for text in given if isinstance(text, str) and text.strip()]
    if len(texts) < 2:
        got = shown(line.text[:60])
        raise ValueError(f'{place}: expected an object with the texts "{GOOD}" and "{BAD}", got {got}')
    if texts[0] == texts[1]:
        raise ValueError(f"{place}: both sentences of the pair are {texts[0]!r}")
    properties = {ours: str(entry[theirs]) for theirs, ours in PROPERTIES.items() if theirs in entry}
    first, second = (_sentence(text, properties, place) for text in texts)
    return first, second


def _sentence(text: str, properties: dict[str, str], place: str) -> Sentence:
    words = text.split()
    spaces = [True] * len(words)
    if words[-1][-1] in ".?!" and words[-1][-2:-1].isalnum():
        words[-1:] = [words[-1][:-1], words[-1][-1]]
        spaces = [*spaces[:-1], False, False]
    return Sentence(tuple(words), tuple(spaces), properties=properties, source=place)


def _changed(good: tuple[str, ...], bad: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    differing = [
        code for code in difflib.SequenceMatcher(None, good, bad, autojunk=False).get_opcodes() if code[0] != "equal"
    ]
    first = tuple(index for _, low, high, _, _ in differing for index in range(low, high))
    second = tuple(index for _, _, _, low, high in differing for index in range(low, high))
    return first, second
