"""Token ids of answers that are written as texts, and texts of tokens.

In a text that goes on, a word begins with its space: " Mary" after "John gave it to".

Dimension key: B examples, A accepted answers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import is_whole, shown
from ...kinds import is_array
from .vocabulary import TOKENIZING

Answers = int | str | Sequence[Any] | np.ndarray | Array
"""One answer for all examples, one for each, or for each a list of those that are accepted; ids or texts."""

Accepted = tuple[tuple[int | str, ...], ...]
"""The answers that are accepted, by example; one entry stands for all."""

_BEFORE = "a"
"""A text that others are put behind: a tokenizer that marks starts of words marks none of its own there."""

_MARKS = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}", "##")
"""Beginnings of tokens' names in vocabularies, which no text has."""


def token_texts(tokenizer: Any, ids: ArrayLike) -> np.ndarray:
    """Return the text of each token, with the space that a word's first token holds; strings in the ids' shape."""
    numbers = np.asarray(ids)
    known, index = np.unique(numbers, return_inverse=True)
    with TOKENIZING:
        texts = [_token_text(tokenizer, int(token)) for token in known]
    return np.array(texts, dtype=object)[index].reshape(numbers.shape)


def _token_text(tokenizer: Any, token: int) -> str:
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None:
        return f"<{token}>"
    text = tokenizer.decode([token])
    # The first word of a decoded text loses its space.
    return f" {text}" if name.startswith("\N{LOWER ONE EIGHTH BLOCK}") and not text.startswith(" ") else text


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text that goes on another, without special tokens."""
    with TOKENIZING:
        if text[:1].isspace():
            # A tokenizer that puts a space before each text would write this one twice.
            before, whole = _ids(tokenizer, _BEFORE), _ids(tokenizer, _BEFORE + text)
            if before and whole[: len(before)] == before:
                return whole[len(before) :]
        return _ids(tokenizer, text)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def answer_ids(model: Any, name: str, text: str) -> list[int]:
    """Return the ids of an answer of any length; raises ValueError without a tokenizer, or for an unknown or no token.

    Args:
        name: of the argument, for messages.
    """
    tokenizer = _tokenizer(model, name, text)
    ids = continuation_ids(tokenizer, text)
    if not ids:
        raise ValueError(f"{name}: {text!r} has no token: give a text")
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids and text.strip() != tokenizer.unk_token:
        raise ValueError(f"{name}: the tokenizer of {model.name} does not know what is in {text!r}")
    return ids


def first_tokens(model: Any, name: str, answers: ArrayLike | Sequence[str]) -> np.ndarray:
    """Return the ids of answers, of each text that of its first token; raises as `answer_ids` does."""
    values = np.atleast_1d(np.asarray(answers))
    entries = values.reshape(-1).tolist()
    if not all(isinstance(entry, str) for entry in entries):
        return values
    known = {text: answer_ids(model, name, text)[0] for text in sorted(set(entries))}
    return np.array([known[text] for text in entries], int).reshape(values.shape)


def answer_id(model: Any, name: str, text: str) -> int:
    """Return the id of an answer of one token: a text, a token by its name in the vocabulary, or a class by its label.

    Raises:
        ValueError: for an answer of several tokens (the message shows them), or a label that is not known.
    """
    if model.network.classes_of is not None:
        return _class(model, name, text)
    tokenizer = _tokenizer(model, name, text)
    if text.startswith(_MARKS) or len(continuation_ids(tokenizer, text)) != 1:
        named = tokenizer.convert_tokens_to_ids(text)
        if named is not None and tokenizer.convert_ids_to_tokens(named) == text:
            return int(named)
    ids = answer_ids(model, name, text)
    if len(ids) == 1:
        return ids[0]
    spaced = f" {text.lstrip()}"
    with_space = (
        f"did you mean {spaced!r}, with its space? Else " if len(continuation_ids(tokenizer, spaced)) == 1 else ""
    )
    raise ValueError(
        f"{name}: {text!r} is {len(ids)} tokens of {model.name}, {_quoted(token_texts(tokenizer, ids))}, and one is "
        f"needed: {with_space}give another answer, or jh.answer_log_probability({text!r}), which takes them all"
    )


def _tokenizer(model: Any, name: str, text: str) -> Any:
    if model.tokenizer is None:
        raise ValueError(f"{name}: {model.name} has no tokenizer ({model.no_tokenizer}); give token ids for {text!r}")
    return model.tokenizer


def read_answers(name: str, values: Answers) -> np.ndarray | Accepted:
    """Return answers as ids `[B]`, or, where some are texts or several are accepted, by example.

    Raises:
        ValueError: for no answer, and for what is neither a whole number nor a text.
    """
    entries: Any = np.asarray(values).tolist() if is_array(values) else values
    rows = entries if isinstance(entries, list | tuple) else [entries]
    accepted = tuple(tuple(row) if isinstance(row, list | tuple) else (row,) for row in rows)
    if not accepted or not all(row and all(isinstance(own, str) or is_whole(own) for own in row) for row in accepted):
        raise ValueError(
            f"{name} must be a whole number (an id) or a text, one for each example, or a list of accepted ones for "
            f"each; got {shown(values)}"
        )
    if all(len(row) == 1 and is_whole(row[0]) for row in accepted):
        return np.array([int(row[0]) for row in accepted])
    return tuple(tuple(own if isinstance(own, str) else int(own) for own in row) for row in accepted)


def resolve_answers(model: Any, name: str, answers: np.ndarray | Accepted) -> np.ndarray | Accepted:
    """Return answers with the model's ids for their texts, each once; see `answer_id` for what raises ValueError."""
    if isinstance(answers, np.ndarray):
        return answers
    texts = {own for row in answers for own in row if isinstance(own, str)}
    known: dict[int | str, int] = {own: answer_id(model, name, own) for own in sorted(texts)}
    return read_answers(name, [list(dict.fromkeys(known.get(own, own) for own in row)) for row in answers])


def accepted_ids(name: str, answers: np.ndarray | Accepted, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that each example accepts, `[B,A]`, and which of them count; raises for another number of them."""
    rows = [[int(token)] for token in answers] if isinstance(answers, np.ndarray) else answers
    if len(rows) not in (1, examples):
        raise ValueError(f"{name} must be one or {examples}, one for each example; got {len(rows)}")
    ids_RA = np.zeros((len(rows), max(map(len, rows))), np.int64)
    counted_RA = np.zeros(ids_RA.shape, bool)
    for number, row in enumerate(rows):
        ids_RA[number, : len(row)], counted_RA[number, : len(row)] = row, True
    return np.broadcast_to(ids_RA, (examples, ids_RA.shape[1])), np.broadcast_to(
        counted_RA, (examples, ids_RA.shape[1])
    )


def _class(model: Any, name: str, label: str) -> int:
    labels = list(model.labels or ())
    if label not in labels:
        raise ValueError(f"{name}: {model.name} answers with a class, one of {_quoted(labels)}; got {label!r}")
    return labels.index(label)


def _quoted(texts: Iterable[str]) -> str:
    return ", ".join(map(repr, texts))
