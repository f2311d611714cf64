"""Encoding of texts, pairs of texts, words and audio as batches, with the input of an encoder–decoder's decoder."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...checks import one_of
from ...columns import listed
from .audio import Audio, audio_features
from .batch import Batch
from .labels import labels_of
from .sentences import Sentence, Sentences, label_names
from .token_words import words_of_tokens
from .vocabulary import TOKENIZING, special_tokens

Text = str | tuple[str, str] | Sequence[str] | Sentence
"""A text; two texts that belong together, as a tuple; a list of words; or a sentence with labels."""


class _Token(NamedTuple):
    """A token's id, its segment, and the index of its word (-1: none)."""

    id: int
    type: int
    word: int


def encode(
    tokenizer: Any,
    texts: Any,
    *,
    bos: bool | None,
    max_length: int | None,
    side: str,
    targets: str | Sequence[str] | None = None,
    start: int | None = None,
    repeats: bool = False,
    length: int | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Batch:
    """Encode texts as a batch, padded to the longest; other arguments and errors are those of `Model.encode`.

    Args:
        start: start token of the decoder's input in an encoder–decoder; None for other models.
        repeats: whether the decoder reads the text too, after its start token and without its last token, unless there
            are targets.
        length: the model reads padding: shorter texts get padding up to this length, which then counts as text.
        warn: receives the message if special tokens of a text would have come twice.
    """
    examples = _as_list(texts)
    one_of("side", side, ("right", "left"))
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    rows = _Rows(tokenizer, bos, max_length, warn)
    whole = [rows.whole(text) for text in examples]
    empty = [index for index, row in enumerate(whole) if rows.is_empty(examples[index], row)]
    if empty:
        raise ValueError(f"every text needs at least one token; these are empty: {empty[:8]}")
    tokens = [rows.of(text, row) for text, row in zip(examples, whole, strict=True)]
    pad = tokenizer.pad_token_id or 0
    if length is not None:
        tokens = [[*row, *[_Token(pad, 0, -1)] * (length - len(row))] for row in tokens]
    ids, mask = _pad([[token.id for token in row] for row in tokens], pad, side)
    types, _ = _pad([[token.type for token in row] for row in tokens], 0, side)
    words, _ = _pad([[token.word for token in row] for row in tokens], -1, side)
    known = _known(texts, examples, words)
    if start is None:
        _refuse_targets(targets)
        return Batch(ids, mask, types, **known)
    if repeats and targets is None:
        read = [[start, *(token.id for token in row[:-1])] for row in tokens]
    else:
        read = _target_ids(tokenizer, targets, len(examples), start, max_length)
    target_ids, target_mask = _pad(read, pad, side)
    return Batch(ids, mask, types, **known, targets=target_ids, target_mask=target_mask)


def _known(texts: Any, examples: Sequence[Any], words_BT: np.ndarray) -> dict[str, Any]:
    """Return the fields of a batch that say what is known of its texts: their words, labels and documents.

    Raises:
        ValueError: for sentences beside other texts.
    """
    labelled = [text for text in examples if isinstance(text, Sentence)]
    if not labelled:
        return {"words": words_BT if any(isinstance(text, list) for text in examples) else None}
    if len(labelled) < len(examples):
        raise ValueError("sentences and other texts are no batch together: give one or the other")
    names = texts.label_names if isinstance(texts, Sentences) else label_names(labelled)
    labels = labels_of(labelled, names)
    if all(text.document is None for text in labelled):
        return {"words": words_BT, "labels": labels}
    # One number a document in all batches. A sentence without a document depends on those of equal words alone.
    documents = [text.text if text.document is None else f"document {text.document}" for text in labelled]
    numbers = [zlib.crc32(document.encode()) & 0x7FFFFFFF for document in documents]
    return {"words": words_BT, "labels": labels, "clusters": numbers}


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
    rows = _target_ids(tokenizer, targets, len(features), start, None)
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
    texts = listed(() if texts is None else texts)
    examples = [texts] if isinstance(texts, str | Sentence) or _is_pair(texts) else list(texts)
    if not examples:
        raise ValueError("there is no text to encode: give at least one string")
    examples = [listed(text) for text in examples]
    for text in examples:
        if isinstance(text, Sentence):
            continue
        strings = [text] if isinstance(text, str) else list(text) if isinstance(text, tuple | list) else None
        if strings is None or not all(isinstance(string, str) for string in strings):
            other = text if strings is None else next(string for string in strings if not isinstance(string, str))
            raise ValueError(f"texts must be strings, got {type(other).__name__}; for token ids use jh.Batch(tokens=…)")
        if isinstance(text, tuple) and len(text) != 2:
            raise ValueError(f"a tuple is a pair of texts; got one of {len(text)}. Words go in a list")
    return examples


def _is_pair(texts: Any) -> bool:
    """Whether this is one example, a tuple of strings, and not a tuple of examples."""
    return isinstance(texts, tuple) and any(isinstance(text, str) for text in texts)


@dataclass(frozen=True)
class _Rows:
    """The tokens of one example after the other, as `Model.encode` was asked for them."""

    tokenizer: Any
    bos: bool | None
    max_length: int | None
    warn: Callable[[str], None]

    def is_empty(self, text: Any, whole: list[_Token]) -> bool:
        """Whether a text, one of a pair, or a word has no token of its own."""
        if isinstance(text, str | Sentence):
            return len(whole) <= sum(map(len, self._special))
        if isinstance(text, tuple):
            return any(self.is_empty(string, self.whole(string)) for string in text)
        return not text or {token.word for token in whole} - {-1} != set(range(len(text)))

    def of(self, text: Any, whole: list[_Token]) -> list[_Token]:
        """Return a text's tokens with special tokens, cut by the tokenizer's own rule if there are too many."""
        row = self._framed(whole)
        if self.max_length is None or len(row) <= self.max_length:
            return row
        # A BOS that is added here, or a special token that the text repeats, counts after the tokenizer has cut: the
        # first try takes all of them to stand before the text, the second knows better.
        special, length = sum(map(len, self._special)), self.max_length + len(whole) - len(row)
        cut: list[_Token] = []
        for _ in range(2):
            cut = self.whole(text, max(1, length))
            row = self._framed(cut)
            length -= max(0, len(row) - self.max_length)
        if len(row) > self.max_length and not special:
            return row[: self.max_length]
        if len(row) > self.max_length or len(cut) <= special:
            raise ValueError(
                f"max_length={self.max_length} leaves no token of a text: the tokenizer adds {special} special tokens"
            )
        return row

    @cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        return special_tokens(self.tokenizer)

    def whole(self, text: Any, cut_to: int | None = None) -> list[_Token]:
        """Return the tokens that the tokenizer gives, all of them or cut."""
        options = {} if cut_to is None else {"truncation": True, "max_length": cut_to}
        with TOKENIZING:
            if isinstance(text, list | Sentence) and not getattr(self.tokenizer, "is_fast", False):
                raise ValueError("words can be told apart by a fast tokenizer only; join them with spaces instead")
            if isinstance(text, Sentence):
                reads = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
                encoded = self.tokenizer(text.text, verbose=False, **reads, **options)
                words = words_of_tokens(text, encoded["offset_mapping"], encoded["special_tokens_mask"])
            elif isinstance(text, list):
                encoded = self.tokenizer(text, is_split_into_words=True, verbose=False, **options)
                words = [-1 if word is None else word for word in encoded.word_ids()]
            else:
                texts = text if isinstance(text, tuple) else (text,)
                encoded = self.tokenizer(*texts, verbose=False, **options)
                words = [-1] * len(encoded["input_ids"])
        types = encoded.get("token_type_ids") or [0] * len(words)
        return [_Token(*token) for token in zip(encoded["input_ids"], types, words, strict=True)]

    def _framed(self, tokens: list[_Token]) -> list[_Token]:
        """Return the tokens without special tokens that come twice, and with the BOS that was asked for."""
        (before, after), ids = self._special, [token.id for token in tokens]
        if before and ids[: 2 * len(before)] == before * 2:
            tokens = tokens[len(before) :]
            self._say_twice(before)
        if after and ids[-2 * len(after) :] == after * 2:
            tokens = tokens[: -len(after)]
            self._say_twice(after)
        first = self.tokenizer.bos_token_id
        if self.bos and first is None:
            raise ValueError("this tokenizer has no beginning-of-sequence token; leave bos out")
        begins = bool(tokens) and tokens[0].id == first
        if self.bos is None or first is None or begins == self.bos:
            return tokens
        return [_Token(first, 0, -1), *tokens] if self.bos else tokens[1:]

    def _say_twice(self, special: list[int]) -> None:
        words = "".join(self.tokenizer.convert_ids_to_tokens(special))
        self.warn(
            f"the text holds {words}, which the tokenizer puts there as well (a chat template's text does): it is "
            "encoded once"
        )


def _target_ids(
    tokenizer: Any, targets: str | Sequence[str] | None, count: int, start: int, max_length: int | None
) -> list[list[int]]:
    """Return the decoder's input of each example: its start token, then the target (if any) with its end token."""
    if targets is None:
        return [[start]] * count
    texts = [targets] if isinstance(targets, str) else list(listed(targets))
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"targets must be one text for each of {count} examples; got {len(texts)}")

    if getattr(tokenizer, "tgt_lang", "") is None:
        raise ValueError(
            "the tokenizer does not know the language of the targets, whose token comes before them: set "
            "model.tokenizer.tgt_lang (and src_lang, that of the texts), such as 'fr' or 'fra_Latn'"
        )
    rows = [_target(tokenizer, text, start, None) for text in texts]
    if empty := [index for index, ids in enumerate(rows) if not ids]:
        raise ValueError(f"every target needs at least one token; these are empty: {empty[:8]}")
    if max_length is None or max(map(len, rows)) <= max_length:
        return rows
    rows = [_target(tokenizer, text, start, max_length) for text in texts]
    if not all(rows):
        raise ValueError(f"max_length={max_length} leaves no token of a target beside its special tokens")
    return rows


def _target(tokenizer: Any, text: str, start: int, max_length: int | None) -> list[int]:
    """Return a target with its start token, which counts to `max_length`; nothing if no token of the text is left."""

    def ids(**options: Any) -> list[int]:
        with TOKENIZING:
            return list(tokenizer(text_target=text, verbose=False, **options)["input_ids"])

    bare, whole = ids(add_special_tokens=False), ids()
    if not bare:
        return []
    # Whisper's tokenizer adds the start token by itself.
    lead = [] if whole[:1] == [start] else [start]
    end = tokenizer.eos_token_id
    twice = len(whole) > len(bare) and end is not None and whole[-2:] == [end, end]
    row = [*lead, *(whole[:-1] if twice else whole)]
    if max_length is None or len(row) <= max_length:
        return row
    cut = ids(truncation=True, max_length=max(1, max_length - len(lead)))
    return [*lead, *cut] if len(whole) - len(bare) < len(cut) <= max_length - len(lead) else []


def _pad(rows: list[list[int]], pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    B, T = len(rows), max(map(len, rows))
    ids, mask = np.full((B, T), pad), np.zeros((B, T), bool)
    for index, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        ids[index, columns], mask[index, columns] = row, True
    return ids, mask
