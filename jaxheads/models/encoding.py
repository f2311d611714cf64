"""From text to token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .batch import Batch


def encode(tokenizer: Any, texts: str | Sequence[str], *, bos: bool | None, max_length: int | None, side: str) -> Batch:
    """A batch of texts, padded to the longest; `Model.encode` says what the arguments mean and what raises."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("there is no text to encode: give at least one string")
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"texts must be strings, got {wrong[0]}; for token ids use jh.Batch(tokens=…)")
    encoded = [tokenizer(text, verbose=False) for text in texts]
    rows = [_with_bos(tokenizer, one["input_ids"], bos) for one in encoded]
    types = [_types(one.get("token_type_ids", ()), len(row)) for one, row in zip(encoded, rows, strict=True)]
    empty = [index for index, (text, row) in enumerate(zip(texts, rows, strict=True)) if not row or not text.strip()]
    if empty:
        raise ValueError(f"every text needs at least one token; these are empty: {empty[:8]}")
    if max_length is not None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        rows = [row[:max_length] for row in rows]
    return _pad(rows, types, pad=tokenizer.pad_token_id or 0, side=side)


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


def _types(given: Sequence[int], count: int) -> list[int]:
    """A type for each of a row's `count` tokens: a BOS put in front gets 0, one taken away takes its type along."""
    return [0] * (count - len(given)) + list(given[max(len(given) - count, 0) :])


def _pad(rows: list[list[int]], types: list[list[int]], *, pad: int, side: str) -> Batch:
    B, T = len(rows), max(map(len, rows))
    tokens, mask, segments = np.full((B, T), pad), np.zeros((B, T), bool), np.zeros((B, T), int)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        tokens[index, where], mask[index, where] = row, True
        segments[index, where] = types[index][: len(row)]
    return Batch(tokens, mask, segments)
