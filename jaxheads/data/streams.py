"""Streams of batches, made as they are needed: from texts, a text file or arrays."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked
from ..checks import one_of, shown
from ..columns import column_of, is_missing, listed
from ..execution.sentence_batches import SentenceBatches
from ..models.inputs import vocabulary
from ..models.inputs.batch import Batch
from ..models.inputs.sentences import Sentences
from ..models.model import Model
from .packing import Window, packed

Frame = tuple[list[int], list[int]]
"""The special tokens before a text and after it."""


@checked(length=at_least(1), examples=at_least(1))
def text_batches(
    model: Model,
    texts: Any,
    *,
    length: int,
    examples: int,
    bos: bool | None = None,
    column: str | None = None,
    empty: Literal["error", "skip"] = "error",
    pack: bool = False,
) -> Iterator[Batch]:
    """Cut texts into windows of at most `length` tokens and yield batches of `examples` windows.

    Every token is in exactly one window; the windows of a text are a cluster, whose label is the text's number. A
    longer text is cut into windows of nearly equal length. Each begins and ends as a text of its own does, with the
    tokenizer's special tokens (BERT's [CLS] and [SEP]); those that a text holds already do not come twice. All batches
    have the shape `[examples, length]`, padded on the right (the last may have fewer examples), so that one compilation
    serves them all.

    Args:
        texts: a UTF-8 file, one text a line, read line by line (blank lines are skipped); or any strings; or a column
            of a table; or, with `column`, a table or rows: a Hugging Face dataset, streamed or not, a DataFrame.
        bos: whether each window begins with the tokenizer's BOS (or [CLS]) token; None follows the tokenizer.
        column: the name of the column that holds the texts.
        empty: "skip" leaves out texts without a token and values that are missing; their numbers stay theirs.
        pack: let texts that are shorter than a window share it. They do not attend to each other and their positions
            start anew (`Batch.segments`, the texts' numbers), so that all numbers are those of each text by itself.
            `jh.run`, `measure` (which scores each text), and `ablate` and `importance` of a loss (to which a window is
            one example) take such batches; other questions refuse them. At most 32 windows are open at a time.

    Raises:
        ValueError: for a model without a tokenizer or BOS, windows longer than its context or too short for a token,
            a text without a token (with its number), no text at all, or a column that is not there.
        FileNotFoundError: for a missing file.
    """
    one_of("empty", empty, ("error", "skip"))
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer ({model.no_tokenizer}); give token ids: array_batches")
    context = model.config.max_position_embeddings  # None where positions have no end
    if length < 2 or (context is not None and length > context):
        most = "on" if context is None else f"to {context}"
        raise ValueError(f"length must be from 2 {most} tokens, got {length}")
    frame = _frame(tokenizer, bos)
    if length <= sum(map(len, frame)):
        raise ValueError(f"windows of {length} tokens hold nothing beside {sum(map(len, frame))} special tokens")
    if isinstance(texts, str | os.PathLike):
        given = _lines(texts)
    else:
        given = _listed(texts) if column is None else column_of(texts, column)
    windows = _windows(given, tokenizer, length, frame, skip=empty == "skip")
    shared = packed(windows, length) if pack else ([window] for window in windows)
    return _checked(model, _batched(shared, examples, length, pack))


def _listed(texts: Any) -> Iterable[Any]:
    known = texts if isinstance(texts, Mapping) else getattr(texts, "column_names", getattr(texts, "columns", None))
    if known is not None:
        raise ValueError(f"texts has columns: choose one by column=…, of {', '.join(map(str, known))}")
    given = listed(texts)
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ValueError(f"texts must be a file's path, or strings, or with column=… a table; got {shown(texts)}")
    return given


def _frame(tokenizer: Any, bos: bool | None) -> Frame:
    """Return the special tokens before and after a window."""
    before, after = vocabulary.special_tokens(tokenizer)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if bos and first is None:
        raise ValueError("this tokenizer has no beginning-of-sequence token; leave bos out")
    if bos is None or first is None or (before[:1] == [first]) == bos:
        return before, after
    return ([first, *before], after) if bos else (before[1:], after)


@checked(examples=at_least(1))
def sentence_batches(model: Model, sentences: Sentences, *, examples: int = 64) -> Iterator[Batch]:
    """Yield batches of `examples` sentences, of nearly equal lengths, for any question that takes a stream of batches.

    Each carries its words, labels, links and documents. Sentences come sorted by length, not in their order.

    Raises:
        ValueError: for a model without a fast tokenizer, or no sentence that fits its context.

    Warns:
        UserWarning: where sentences are longer than the model's context, which are left out; it says how many.
    """
    batches = SentenceBatches(model, sentences, examples)
    if count := len(batches.left_out):
        context = model.config.max_position_embeddings
        warnings.warn(f"{count} of {len(sentences)} sentences are longer than {context} tokens: left out", stacklevel=3)
    return (batch for _, batch in batches)


@checked(examples=at_least(1))
def array_batches(
    tokens: ArrayLike, mask: ArrayLike | None = None, *, examples: int, clusters: ArrayLike | None = None
) -> Iterator[Batch]:
    """Yield batches of `examples` rows of token ids `[E,T]`, with their mask if they are padded.

    A memory-mapped array (`np.load(path, mmap_mode="r")`) is read batch by batch.

    Args:
        clusters: integer labels `[E]` of rows that depend on each other, such as windows of one document.

    Raises:
        ValueError: for arrays of another rank or of different shapes, or no examples.
    """
    rows = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens)
    real = None if mask is None else mask if isinstance(mask, np.ndarray) else np.asarray(mask)
    if rows.ndim != 2 or len(rows) == 0 or (real is not None and real.shape != rows.shape):
        raise ValueError(
            f"tokens must be [examples, positions], and the mask like them; got {rows.shape} and "
            f"{None if real is None else real.shape}"
        )
    slices = (slice(first, first + examples) for first in range(0, len(rows), examples))
    labels = None if clusters is None else np.asarray(clusters)
    if labels is not None and labels.shape != rows.shape[:1]:
        raise ValueError(f"clusters must be one label for each of {len(rows)} rows, got shape {labels.shape}")

    def batch(window: slice) -> Batch:
        mask, own = (None if array is None else array[window] for array in (real, labels))
        return Batch(rows[window], mask, clusters=own)

    return map(batch, slices)


@checked()
def ordinary_tokens(model: Model) -> np.ndarray:
    """Return the ids that a model's texts are made of, int32, sorted; the whole vocabulary without a tokenizer.

    Left out are special and added tokens, tokens that are reserved for later use, parts of a character, and ids without
    a token. Random tokens (`repeated_tokens`) are best drawn from these.
    """
    return vocabulary.ordinary_tokens(model.tokenizer, model.config.vocab_size)


def _lines(path: str | os.PathLike) -> Iterator[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{Path(path).name} is not there: give a UTF-8 file, one text a line, or the texts")
    return _read(Path(path))


def _read(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (line.strip() for line in file if line.strip())


def _windows(texts: Iterable[Any], tokenizer: Any, length: int, frame: Frame, *, skip: bool) -> Iterator[Window]:
    own, (before, after) = vocabulary.special_tokens(tokenizer), frame
    size, number, found = length - len(before) - len(after), -1, False
    for number, text in enumerate(texts):
        if skip and is_missing(text):
            continue
        if not isinstance(text, str):
            hint = "; choose a column of rows by column=…" if isinstance(text, Mapping) else ""
            raise ValueError(f"texts[{number}] must be a text, got {shown(text)}{hint}")
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if not ids and skip:
            continue
        if not ids:
            raise ValueError(f'text number {number} is empty: it has no token (empty="skip" leaves such texts out)')
        # A text that was made by a chat template holds special tokens already; one that has no others keeps them.
        for special in (own[0], before):
            if special and len(ids) > len(special) and ids[: len(special)] == special:
                ids = ids[len(special) :]
        if after and len(ids) > len(after) and ids[-len(after) :] == after:
            ids = ids[: -len(after)]
        windows = -(-len(ids) // size)
        cut, found = np.array_split(np.asarray(ids), windows), True
        yield from (Window(number, [*before, *window.tolist(), *after], windows == 1) for window in cut)
    if not found:
        raise ValueError("there is no text to make batches of")


def _batched(windows: Iterator[list[Window]], examples: int, length: int, pack: bool) -> Iterator[Batch]:
    """Yield batches of windows, each of which holds one text or several."""
    while rows := list(islice(windows, examples)):
        tokens, segments = np.zeros((2, len(rows), length), np.int32)
        mask = np.zeros((len(rows), length), bool)
        for index, row in enumerate(rows):
            ids = [token for window in row for token in window.ids]
            tokens[index, : len(ids)], mask[index, : len(ids)] = ids, True
            segments[index, : len(ids)] = np.repeat([window.number for window in row], [len(own.ids) for own in row])
        clusters = np.array([row[0].number for row in rows], np.int32)
        yield Batch(tokens, mask, segments=segments if pack else None, clusters=clusters)


def _checked(model: Model, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        model.check(batch, packed=True)
        yield batch
