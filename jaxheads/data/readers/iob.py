"""Words with tags in columns, as CoNLL-2000 (chunks) and CoNLL-2003 (entities) have them."""

import os
from collections.abc import Sequence

from ...arguments import checked
from ...checks import shown
from ...models.inputs.sentences import Sentence, Sentences
from .lines import Line, TextFile, read_lines

_BEGINS = "-DOCSTART-"


@checked()
def iob(path: str | os.PathLike, columns: Sequence[str] = ("word", "upos", "chunk", "entity")) -> Sentences:
    """Read sentences of one word a line, its tags beside it, a blank line after each sentence.

    Tags that begin with B- and I- (IOB1, IOB2) and with E- and S- are read as the types of spans: the label of a word
    is its type, without the letter; O is no label. A line "-DOCSTART-" begins a document.

    Args:
        columns: names of the columns, between tabs or spaces: "word" is one of them; "" leaves a column out.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: with file and line, for a line with another number of columns, a span that goes on with another
            type than it began with, or columns without "word".
    """
    names = tuple(columns)
    given = [name for name in names if name]
    if "word" not in names or len(set(given)) < len(given):
        raise ValueError(f'columns must name "word" and others, each once; got {shown(names)}')
    file, found, document = read_lines(path), [], 0
    for block in file.blocks():
        if block[0].text.split()[0] == _BEGINS:
            document, block = document + 1, block[1:]
        if block:
            found.append(_sentence(block, names, f"{file.name} {document}" if document else None, file))
    if not found:
        raise ValueError(f"{file.name}: expected sentences, got none")
    return Sentences(tuple(found), {file.name: file.sha256})


def _sentence(block: Sequence[Line], names: Sequence[str], document: str | None, file: TextFile) -> Sentence:
    rows = []
    for line in block:
        fields = line.text.split("\t") if "\t" in line.text else line.text.split()
        if len(fields) != len(names):
            raise ValueError(
                f"{file.at(line.number)}: expected {len(names)} columns ({', '.join(name or '-' for name in names)}), "
                f"got {len(fields)}: {shown(line.text[:60])}"
            )
        rows.append(fields)
    labels = {}
    for column, name in enumerate(names):
        if name and name != "word":
            labels[name] = _types([row[column] for row in rows], name, block, file)
    words = tuple(row[names.index("word")] for row in rows)
    return Sentence(words, labels=labels, document=document, source=file.at(block[0].number))


def _types(tags: Sequence[str], name: str, block: Sequence[Line], file: TextFile) -> tuple[str | None, ...]:
    """Return the type of each word's span, or its tag where tags are no spans; None for O and _."""
    spans = all(tag in ("O", "_") or tag[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") for tag in tags)
    labels: list[str | None] = []
    for tag, before, line in zip(tags, ["O", *tags], block, strict=False):
        if spans and tag[:2] in ("E-", "L-") and before[2:] != tag[2:]:
            place = file.at(line.number)
            raise ValueError(f"{place}: {name} {tag} ends a span that has not begun; before it: {before}")
        labels.append(None if tag in ("O", "_") else tag[2:] if spans else tag)
    return tuple(labels)
