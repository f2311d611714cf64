"""Treebanks in CoNLL-U: words, tags, features, trees, entities and coreference, documents and genres.

The format is that of https://universaldependencies.org/format.html; entities and coreference are those of CorefUD 1.0
(https://ufal.mff.cuni.cz/corefud), as GUM has them.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...arguments import checked
from ...checks import shown
from ...extras import extra
from ...models.inputs.sentences import Link, Sentence, Sentences
from .lines import Line, TextFile, errors_at, read_lines
from .passages import Unit, check_unit, joined, passages_of

_GENRE = re.compile(r"([A-Za-z]+)-")
_MENTION = re.compile(r"\((?P<opens>[^()]+)(?P<whole>\))?|(?P<closes>[^()]+)\)")

_KINDS = {"PRON": "pronoun", "DET": "pronoun", "PROPN": "proper"}
"""Kind of a mention by the tag of its head word; all others are nominal."""


class Mention(NamedTuple):
    """A span of words that names an entity.

    Attributes:
        entity: its number in the document.
        type: its type ("person"), or "" where the file names none.
        words: indices of its words, in their order.
        head: index of its head word.
    """

    entity: str
    type: str
    words: tuple[int, ...]
    head: int


@dataclass(frozen=True)
class Tree:
    """A sentence of a treebank, before mentions become links.

    Attributes:
        sentence: words, labels and tree.
        mentions: in the order in which they begin.
    """

    sentence: Sentence
    mentions: tuple[Mention, ...]


@checked()
def conllu(path: str | os.PathLike, *, unit: Unit = "sentence") -> Sentences:
    """Read a treebank: words, tags, features, trees, entities, coreference, documents and genres.

    Labels of words are "upos", "xpos", each feature by its name ("Number"), and "entity", the type of the smallest
    mention that a word is in. Links are "deprel", the tree, and "coref", from the head word of a mention to that of
    each earlier mention of its entity in the example, by the mention's kind: "pronoun", "proper" or "nominal", as its
    head word is tagged. `SpaceAfter=No` decides where spaces are. Words that are written as one ("zum") are several
    where their forms join to what is written, else one, with the labels of their head. Empty nodes are no words.

    Args:
        unit: what is one example: "sentence"; "document"; or a number of words: sentences of a document that follow
            each other, as many as have no more words than this (coreference reaches over sentences).

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: with file and line, for what is not CoNLL-U, a head that there is not, words in a circle, or a
            mention that does not end.
        MissingExtraError: without the package `conllu`.
    """
    check_unit(unit)
    file = read_lines(path)
    trees = list(_trees(file))
    return Sentences(tuple(map(_with_coreference, passages_of(trees, unit, _joined))), {file.name: file.sha256})


def _trees(file: TextFile) -> Iterator[Tree]:
    parser = extra("conllu", "treebanks")
    document = _Document()
    for block in file.blocks():
        place = file.at(block[0].number)
        comments = [line.text for line in block if line.text.startswith("#")]
        rows = [line for line in block if not line.text.startswith("#")]
        document = document.after(comments)
        if not rows:
            continue
        for line in rows:
            if line.text.count("\t") != 9:
                raise ValueError(
                    f"{file.at(line.number)}: expected 10 fields between tabs, got {line.text.count(chr(9)) + 1}: "
                    f"{shown(line.text[:60])}"
                )
        with errors_at(place):
            try:
                [tokens] = parser.parse("\n".join(line.text for line in rows) + "\n\n")
            except parser.exceptions.ParseException as error:
                raise ValueError(f"expected CoNLL-U; {error}") from None
            yield _tree(list(zip(rows, tokens, strict=True)), document, file)


@dataclass(frozen=True)
class _Document:
    """What the comments so far say of the document.

    Attributes:
        name: its id, or None.
        genre: as the file names it, or as its id begins ("weblog-…").
        fields: names of the parts of a mention's attributes.
    """

    name: str | None = None
    genre: str | None = None
    fields: tuple[str, ...] = ("eid", "etype", "head")

    def after(self, comments: Iterable[str]) -> "_Document":
        """Return the document after these comments."""
        found = dict(self.__dict__)
        for comment in comments:
            key, _, value = (part.strip() for part in comment.lstrip("#").partition("="))
            if key.startswith("newdoc"):
                begins = _GENRE.match(value)
                found |= {"name": value or comment, "genre": begins[1] if begins else None}
            elif key == "meta::genre":
                found["genre"] = value
            elif key == "global.Entity":
                found["fields"] = tuple(value.split("-"))
        return _Document(**found)


def _tree(rows: list[tuple[Line, Any]], document: _Document, file: TextFile) -> Tree:
    forms, words = _words(rows, file)
    index = {own: number for number, members in enumerate(words) for own in members}
    heads = {}
    for line, token in rows:
        if isinstance(token["id"], int) and token["head"] is not None:
            if token["head"] and token["head"] not in index:
                raise ValueError(f"{file.at(line.number)}: the head {token['head']} is no word of the sentence")
            heads[token["id"]] = token["head"]
    tokens = {token["id"]: token for _, token in rows if isinstance(token["id"], int)}
    _check_circle(heads, file.at(rows[0][0].number))
    # Of words that are one here, the one whose head is another word.
    chief = [next((own for own in group if heads.get(own) not in group), group[0]) for group in words]
    labels: dict[str, list[str | None]] = {}
    for number, own in enumerate(chief):
        features = tokens[own]["feats"] or {}
        for name, value in {"upos": tokens[own]["upos"], "xpos": tokens[own]["xpos"], **features}.items():
            if value not in (None, "_"):
                labels.setdefault(name, [None] * len(words))[number] = value
    links = tuple(
        Link(number, index[heads[own]] if heads[own] else -1, tokens[own]["deprel"] or "_")
        for number, own in enumerate(chief)
        if own in heads
    )
    mentions = _mentions(rows, index, {number: heads.get(own, 0) for number, own in enumerate(chief)}, document, file)
    if mentions:
        labels["entity"] = _entity_labels(mentions, len(words))
    sentence = Sentence(
        tuple(form for form, _ in forms),
        tuple(space for _, space in forms),
        {name: tuple(values) for name, values in labels.items()},
        {"deprel": links} if links else {},
        {} if document.genre is None else {"genre": document.genre},
        document.name,
        file.at(rows[0][0].number),
    )
    return Tree(sentence, mentions)


def _words(rows: list[tuple[Line, Any]], file: TextFile) -> tuple[list[tuple[str, bool]], list[tuple[int, ...]]]:
    """Return the form of each word and whether a space follows it, and the numbers of the file's words that it is."""
    ranges = {token["id"][0]: token for _, token in rows if isinstance(token["id"], tuple) and token["id"][1] == "-"}
    singles = {token["id"]: token for _, token in rows if isinstance(token["id"], int)}
    forms: list[tuple[str, bool]] = []
    words: list[tuple[int, ...]] = []
    if list(singles) != list(range(1, len(singles) + 1)):
        raise ValueError(f"{file.at(rows[0][0].number)}: words must be numbered from 1, got {shown(list(singles))}")
    number = 1
    while number in singles:
        written, members = singles[number], (number,)
        if number in ranges:
            written, members = ranges[number], tuple(range(number, ranges[number]["id"][2] + 1))
        space = (written["misc"] or {}).get("SpaceAfter") != "No"
        parts = [singles[own]["form"] for own in members]
        # A form may have spaces within ("1 000"): a tokenizer reads them as they are.
        if "".join(parts) == written["form"]:
            forms += [(part, space and own == members[-1]) for own, part in zip(members, parts, strict=True)]
            words += [(own,) for own in members]
        else:
            forms.append((written["form"], space))
            words.append(members)
        number = members[-1] + 1
    return forms, words


def _check_circle(heads: Mapping[int, int], place: str) -> None:
    for start in heads:
        seen, word = {start}, heads[start]
        while word in heads:
            if word in seen:
                raise ValueError(f"{place}: word {word} is its own ancestor: heads must make a tree")
            seen.add(word)
            word = heads[word]


def _mentions(
    rows: list[tuple[Line, Any]],
    index: Mapping[int, int],
    heads: Mapping[int, int],
    document: _Document,
    file: TextFile,
) -> tuple[Mention, ...]:
    """Return the mentions of a sentence; `heads` are by index of word the file's number of its head."""
    opened: list[tuple[str, dict[str, str], int]] = []
    found: list[tuple[int, Mention]] = []
    for line, token in rows:
        entity = (token["misc"] or {}).get("Entity") if isinstance(token["id"], int) else None
        if entity is None:
            continue
        here = index[token["id"]]
        for match in _MENTION.finditer(entity):
            if match["opens"] is not None:
                values = dict(zip(document.fields, match["opens"].split("-"), strict=False))
                name = match["opens"].split("-")[0]
                opened.append((name, values, here))
                if match["whole"] is None:
                    continue
            else:
                name = match["closes"].split("-")[0]
            at = next((number for number in reversed(range(len(opened))) if opened[number][0] == name), None)
            if at is None:
                raise ValueError(f"{file.at(line.number)}: Entity={entity} ends a mention {name} that has not begun")
            _, values, start = opened.pop(at)
            found.append((start, _mention(name, values, range(start, here + 1), heads, index)))
    if opened:
        raise ValueError(f"{file.at(rows[-1][0].number)}: the mention {opened[0][0]} does not end in its sentence")
    return tuple(mention for _, mention in sorted(found, key=lambda entry: (entry[0], -len(entry[1].words))))


def _mention(
    name: str, values: Mapping[str, str], words: Sequence[int], heads: Mapping[int, int], index: Mapping[int, int]
) -> Mention:
    """Return a mention; its head is the word whose own head is outside, one of the least span where that is named."""
    least = [int(number) - 1 for number in re.findall(r"\d+", values.get("minspan", values.get("head", "")))]
    outside = [word for word in words if index.get(heads[word], -1) not in words]
    within = [word for word in outside if word - words[0] in least]
    head = (within or outside or list(words))[0]
    return Mention(name.split("[")[0], values.get("etype", ""), tuple(words), head)


def _entity_labels(mentions: Iterable[Mention], count: int) -> list[str | None]:
    """Return for each word the type of the smallest mention that it is in."""
    labels: list[str | None] = [None] * count
    for mention in sorted(mentions, key=lambda mention: -len(mention.words)):
        for word in mention.words:
            labels[word] = mention.type or None
    return labels


def _joined(trees: Sequence[Tree]) -> Tree:
    """Return one tree of several of a document: its words and mentions one after the other."""
    first, mentions = 0, []
    for tree in trees:
        for mention in tree.mentions:
            moved = tuple(word + first for word in mention.words)
            mentions.append(mention._replace(words=moved, head=mention.head + first))
        first += len(tree.sentence.words)
    return Tree(joined([tree.sentence for tree in trees]), tuple(mentions))


def _with_coreference(tree: Tree) -> Sentence:
    """Return the sentence with links from each mention to all earlier ones of its entity."""
    tags, links = tree.sentence.labels.get("upos"), []
    earlier: dict[str, list[int]] = {}
    for mention in tree.mentions:
        kind = "nominal" if tags is None else _KINDS.get(tags[mention.head] or "", "nominal")
        before = earlier.setdefault(mention.entity, [])
        links += [Link(mention.head, head, kind) for head in dict.fromkeys(before) if head < mention.head]
        before.append(mention.head)
    if not links:
        return tree.sentence
    fields = {**tree.sentence.__dict__, "links": {**tree.sentence.links, "coref": tuple(links)}}
    return Sentence(**fields)
