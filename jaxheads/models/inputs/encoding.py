"""From what users have to a batch: texts, pairs of texts, words, audio; and for a decoder its own beginning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .audio import Audio, audio_features
from .batch import Batch

Text = str | tuple[str, str] | Sequence[str]
"""A text; two texts that belong together, as a tuple; or a list of words."""


@dataclass(frozen=True)
class _Row:
    """One example: ids, segment types, and for each piece the number of its word (-1: none)."""

    ids: list[int]
    types: list[int]
    words: list[int]


def encode(
    tokenizer: Any,
    texts: Any,
    *,
    bos: bool | None,
    max_length: int | None,
    side: str,
    targets: str | Sequence[str] | None = None,
    start: int | None = None,
) -> Batch:
    """A batch of texts, padded to the longest; `Model.encode` says what the arguments mean and what raises.

    Args:
        start: the token that a decoder's input begins with; None for models without a decoder of their own.
    """
    given = _several(texts)
    _check_side(side)
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    rows = [_row(tokenizer, text, bos) for text in given]
    empty = [index for index, (text, row) in enumerate(zip(given, rows, strict=True)) if not row.ids or _blank(text)]
    if empty:
        raise ValueError(f"every text needs at least one token; these are empty: {empty[:8]}")
    pad = tokenizer.pad_token_id or 0
    ids, mask = _pad([row.ids[:max_length] for row in rows], pad, side)
    types, _ = _pad([row.types[:max_length] for row in rows], 0, side)
    words, _ = _pad([row.words[:max_length] for row in rows], -1, side)
    has_words = any(isinstance(text, list) for text in given)
    if start is None:
        _refuse_targets(targets)
        return Batch(ids, mask, types, words=words if has_words else None)
    wanted = _targets(tokenizer, targets, len(given), start)
    target_ids, target_mask = _pad(wanted, pad, side)
    return Batch(ids, mask, types, words=words if has_words else None, targets=target_ids, target_mask=target_mask)


def encode_audio(
    tokenizer: Any,
    audio: Audio,
    *,
    mels: int,
    frames: int,
    rate: int | None,
    side: str,
    targets: str | Sequence[str] | None = None,
    start: int | None = None,
) -> Batch:
    """A batch of recordings for a model that reads `frames` frames of `mels` bands; `Model.encode` says what the other
    arguments mean and what raises. The tokenizer may be None where there are no targets."""
    _check_side(side)
    features = audio_features(audio, mels=mels, frames=frames, rate=rate)
    if start is None:
        _refuse_targets(targets)
        return Batch(features=features)
    rows = _targets(tokenizer, targets, len(features), start)
    ids, mask = _pad(rows, getattr(tokenizer, "pad_token_id", None) or 0, side)
    return Batch(features=features, targets=ids, target_mask=mask)


def _refuse_targets(targets: Any) -> None:
    if targets is not None:
        raise ValueError("targets are what a decoder is given; this model has no decoder beside an encoder")


def _check_side(side: str) -> None:
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")


def _several(texts: Any) -> list[Any]:
    """One example or several, checked: strings, pairs (tuples of two strings) or lists of words."""
    many = [texts] if isinstance(texts, str | tuple) else list(texts or ())
    if not many:
        raise ValueError("there is no text to encode: give at least one string")
    many = [list(text) if isinstance(text, list) else text for text in many]
    for text in many:
        parts = [text] if isinstance(text, str) else list(text) if isinstance(text, tuple | list) else None
        if parts is None or not all(isinstance(part, str) for part in parts):
            kind = type(text).__name__ if parts is None else next(type(p).__name__ for p in parts if type(p) is not str)
            raise ValueError(f"texts must be strings, got {kind}; for token ids use jh.Batch(tokens=…)")
        if isinstance(text, tuple) and len(text) != 2:
            raise ValueError(f"a tuple is a pair of texts; got one of {len(text)}. Words go in a list")
    return many


def _blank(text: Any) -> bool:
    parts = [text] if isinstance(text, str) else list(text)
    return not parts or any(not part.strip() for part in parts)


def _row(tokenizer: Any, text: Any, bos: bool | None) -> _Row:
    if isinstance(text, list):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("words can be told apart by a fast tokenizer only; join them with spaces instead")
        encoded = tokenizer(text, is_split_into_words=True, verbose=False)
        words = [-1 if word is None else word for word in encoded.word_ids()]
    else:
        encoded = tokenizer(*text, verbose=False) if isinstance(text, tuple) else tokenizer(text, verbose=False)
        words = [-1] * len(encoded["input_ids"])
    ids = _with_bos(tokenizer, encoded["input_ids"], bos)
    return _Row(ids, _fitted(encoded.get("token_type_ids", ()), len(ids), 0), _fitted(words, len(ids), -1))


def _with_bos(tokenizer: Any, ids: Sequence[int], bos: bool | None) -> list[int]:
    first = tokenizer.bos_token_id
    if bos is None:
        return list(ids)
    if first is None:
        if bos:
            raise ValueError("this tokenizer has no beginning-of-sequence token; leave bos out")
        return list(ids)
    rest = list(ids[1:]) if len(ids) and ids[0] == first else list(ids)
    return [first, *rest] if bos else rest


def _fitted(given: Sequence[int], count: int, new: int) -> list[int]:
    """One for each of a row's `count` tokens: a BOS put in front gets `new`, one taken away takes its own along."""
    return [new] * (count - len(given)) + list(given[max(len(given) - count, 0) :])


def _targets(tokenizer: Any, targets: str | Sequence[str] | None, count: int, start: int) -> list[list[int]]:
    """What the decoder is given: its start token, and the target as far as there is one, its end token included.
    Some tokenizers (Whisper's) put the start token there themselves."""
    if targets is None:
        return [[start]] * count
    given = [targets] if isinstance(targets, str) else list(targets)
    if len(given) != count or not all(isinstance(text, str) and text.strip() for text in given):
        raise ValueError(f"targets must be one text, not empty, for each of {count} examples; got {len(given)}")
    rows = [list(tokenizer(text_target=text, verbose=False)["input_ids"]) for text in given]
    return [row if row[:1] == [start] else [start, *row] for row in rows]


def _pad(rows: list[list[int]], pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    B, T = len(rows), max(map(len, rows))
    ids, mask = np.full((B, T), pad), np.zeros((B, T), bool)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        ids[index, where], mask[index, where] = row, True
    return ids, mask
