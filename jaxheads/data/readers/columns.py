"""Tables of texts and labels: csv, tsv, JSON and JSON lines."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...arguments import checked
from ...checks import one_of, shown
from ...models.inputs.sentences import Sentence, Sentences
from .lines import TextFile, read_lines

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@checked()
def columns(
    path: str | os.PathLike,
    *,
    text: str = "text",
    labels: str | Sequence[str] = ("label",),
    document: str | None = None,
) -> Sentences:
    """Read a table of texts and labels: .csv and .tsv with a first row of names, .json (a list), .jsonl.

    Words are what stands between spaces; a list of words is taken as it is. Labels become properties of the sentence.

    Args:
        text: the name of the column of texts.
        labels: the name of a column of labels, or several.
        document: the name of a column that says which document a text is from.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for another kind of file; with file and line, for a row of another length, a column that is not
            there, a text that is missing or empty, or a label that is missing.
    """
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    wanted = [text, *labels, *([] if document is None else [document])]
    file = read_lines(path)
    found = []
    for line, row in _rows(file, os.path.splitext(os.fspath(path))[1].lower()):
        place = file.at(line)
        for name in wanted:
            one_of(f"{place}: the column", name, row)
        found.append(_sentence(row, text, labels, document, place))
    if not found:
        raise ValueError(f"{file.name}: expected rows below the names, got none")
    return Sentences(tuple(found), {file.name: file.sha256})


def _rows(file: TextFile, suffix: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    one_of("the end of the file's name", suffix, (*SEPARATORS, ".json", ".jsonl"))
    if suffix in SEPARATORS:
        yield from _separated(file, SEPARATORS[suffix])
        return
    if suffix == ".json":
        rows = _json("\n".join(line.text for line in file.lines), file, 1)
        if not isinstance(rows, list):
            raise ValueError(f"{file.name}: expected a list of objects, got {shown(rows)}")
        entries = [(number, row) for number, row in enumerate(rows, start=1)]
    else:
        entries = [(line.number, _json(line.text, file, line.number)) for line in file.lines if line.text.strip()]
    for number, row in entries:
        if not isinstance(row, dict):
            raise ValueError(f"{file.at(number)}: expected an object, got {shown(row)}")
        yield number, row


def _separated(file: TextFile, separator: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader((line.text + "\n" for line in file.lines), delimiter=separator, strict=True)
    names: list[str] | None = None
    first = 1
    try:
        for row in reader:
            if names is None:
                names = row
            elif row:
                if len(row) != len(names):
                    raise ValueError(f"{file.at(first)}: expected {len(names)} columns, got {len(row)}")
                yield first, dict(zip(names, row, strict=True))
            first = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file.at(reader.line_num)}: expected rows of one table; {error}") from None


def _json(text: str, file: TextFile, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = file.at(line + error.lineno - 1)
        raise ValueError(f"{place}: expected JSON, got {shown(text[:60])} ({error.msg})") from None


def _sentence(row: Mapping[str, Any], text: str, labels: Sequence[str], document: str | None, place: str) -> Sentence:
    value = row[text]
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise ValueError(f"{place}: the column {text!r} must hold a text or a list of words, got {shown(value)}")
    properties = {}
    for name in labels:
        if row[name] is None or row[name] == "" or isinstance(row[name], list | dict):
            raise ValueError(f"{place}: the column {name!r} must hold a label, got {shown(row[name])}")
        properties[name] = str(row[name])
    own = None if document is None else str(row[document])
    return Sentence(tuple(words), properties=properties, document=own, source=place)
