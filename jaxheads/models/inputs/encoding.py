"""Encoding of texts, pairs of texts, words and audio as batches, with the input of an encoder–decoder's decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import one_of
from .audio import Audio, audio_features
from .batch import Batch

Text = str | tuple[str, str] | Sequence[str]
"""A text; two texts that belong together, as a tuple; or a list of words."""


@dataclass(frozen=True)
class _Row:
    """One example's token ids, segment types, and each token's word index (-1: none)."""

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
    """Encode texts as a batch, padded to the longest; other arguments and errors are those of `Model.encode`.

    Args:
        start: start token of the decoder's input in an encoder–decoder; None for other models.
    """
    examples = _as_list(texts)
    one_of("side", side, ("right", "left"))
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    rows = [_row(tokenizer, text, bos) for text in examples]
    empty = [index for index, (text, row) in enumerate(zip(examples, rows, strict=True)) if not row.ids or _blank(text)]
    if empty:
        raise ValueError(f"every text needs at least one token; these are empty: {empty[:8]}")
    pad = tokenizer.pad_token_id or 0
    ids, mask = _pad([row.ids[:max_length] for row in rows], pad, side)
    types, _ = _pad([row.types[:max_length] for row in rows], 0, side)
    words, _ = _pad([row.words[:max_length] for row in rows], -1, side)
    has_words = any(isinstance(text, list) for text in examples)
    if start is None:
        _refuse_targets(targets)
        return Batch(ids, mask, types, words=words if has_words else None)
    target_ids, target_mask = _pad(_target_ids(tokenizer, targets, len(examples), start), pad, side)
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
    """Encode recordings as a batch; other arguments and errors are those of `Model.encode` and `encode`.

    Args:
        tokenizer: tokenizer of the targets; may be None without targets.
        mels, frames: numbers of bands and of frames that the model reads.
    """
    one_of("side", side, ("right", "left"))
    features = audio_features(audio, mels=mels, frames=frames, rate=rate)
    if start is None:
        _refuse_targets(targets)
        return Batch(features=features)
    rows = _target_ids(tokenizer, targets, len(features), start)
    ids, mask = _pad(rows, getattr(tokenizer, "pad_token_id", None) or 0, side)
    return Batch(features=features, targets=ids, target_mask=mask)


def unknown_share(tokenizer: Any, batch: Batch) -> float:
    """Return the share of unknown tokens among the real tokens that are not special, from 0 to 1.

    It is 0 for a tokenizer without an unknown token, or with one that also has another use (GPT-2's end of text).
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = ("bos_token_id", "eos_token_id")
    if unknown is None or unknown in [getattr(tokenizer, name, None) for name in others]:
        return 0.0
    special = [token for token in getattr(tokenizer, "all_special_ids", ()) if token != unknown]
    pairs = ((batch.tokens, batch.mask), (batch.targets, batch.target_mask))
    real = [np.asarray(ids)[np.asarray(mask)] for ids, mask in pairs if ids is not None]
    tokens = np.concatenate(real) if real else np.zeros(0, int)
    tokens = tokens[~np.isin(tokens, special)]
    return float((tokens == unknown).mean()) if tokens.size else 0.0


def _refuse_targets(targets: Any) -> None:
    if targets is not None:
        raise ValueError("targets are a decoder's input; this model has no decoder beside an encoder")


def _as_list(texts: Any) -> list[Any]:
    """Return a list of examples (strings, pairs of strings or lists of words), of one example or several.

    Raises:
        ValueError: for no example, or one of another kind.
    """
    examples = [texts] if isinstance(texts, str | tuple) else list(texts or ())
    if not examples:
        raise ValueError("there is no text to encode: give at least one string")
    examples = [list(text) if isinstance(text, list) else text for text in examples]
    for text in examples:
        strings = [text] if isinstance(text, str) else list(text) if isinstance(text, tuple | list) else None
        if strings is None or not all(isinstance(string, str) for string in strings):
            other = text if strings is None else next(string for string in strings if not isinstance(string, str))
            raise ValueError(f"texts must be strings, got {type(other).__name__}; for token ids use jh.Batch(tokens=…)")
        if isinstance(text, tuple) and len(text) != 2:
            raise ValueError(f"a tuple is a pair of texts; got one of {len(text)}. Words go in a list")
    return examples


def _blank(text: Any) -> bool:
    strings = [text] if isinstance(text, str) else list(text)
    return not strings or any(not string.strip() for string in strings)


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
    return _Row(ids, _align(encoded.get("token_type_ids", ()), len(ids), 0), _align(words, len(ids), -1))


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


def _align(values: Sequence[int], count: int, filler: int) -> list[int]:
    """Align per-token values to `count` tokens: prepend `filler` for a BOS that was added, drop a removed BOS's."""
    return [filler] * (count - len(values)) + list(values[max(len(values) - count, 0) :])


def _target_ids(tokenizer: Any, targets: str | Sequence[str] | None, count: int, start: int) -> list[list[int]]:
    """Return the decoder's input of each example: its start token, then the target (if any) with its end token."""
    if targets is None:
        return [[start]] * count
    texts = [targets] if isinstance(targets, str) else list(targets)
    if len(texts) != count or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"targets must be one text, not empty, for each of {count} examples; got {len(texts)}")
    rows = [list(tokenizer(text_target=text, verbose=False)["input_ids"]) for text in texts]
    # Whisper's tokenizer adds the start token by itself.
    return [row if row[:1] == [start] else [start, *row] for row in rows]


def _pad(rows: list[list[int]], pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    B, T = len(rows), max(map(len, rows))
    ids, mask = np.full((B, T), pad), np.zeros((B, T), bool)
    for index, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        ids[index, columns], mask[index, columns] = row, True
    return ids, mask
