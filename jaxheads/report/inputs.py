"""Inputs of the atlas: prose, and random tokens said twice."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..data.prose import passages
from ..data.synthetic import RepeatedTokens, repeated_tokens
from ..models.inputs.batch import Batch
from ..models.inputs.vocabulary import ordinary_tokens, special_tokens
from ..models.model import Model

WINDOW = 128
"""Largest number of prose tokens in one example."""

DRAWS = 4
"""Draws of each null: other random weights, other shuffles."""


@dataclass(frozen=True)
class Repeats:
    """Random tokens said twice, and draws of their null, whose second half has no repeat."""

    batch: Batch
    nulls: tuple[Batch, ...]


def first_token(model: Model) -> int | None:
    """Return the token that begins a sequence: BOS, or an encoder's [CLS]; None if the tokenizer has neither."""
    ids = (model.tokenizer.bos_token_id, model.tokenizer.cls_token_id)
    return next((token for token in ids if token is not None), None)


def prose(model: Model, path: str | os.PathLike | None) -> list[Batch]:
    """Cut passages into windows of at most `WINDOW` tokens, in batches of one width.

    A window begins with `first_token` and ends as the tokenizer ends a text (an encoder's [SEP]). Every token is in one
    window, except rests of fewer than 4. Windows of one passage are a cluster, unless there are fewer than 8 passages:
    then they are all that there is to choose and to confirm on.

    Raises:
        FileNotFoundError: for a missing text.
        ValueError: for a text without words, or too short to split into 8 windows of 4 tokens.
    """
    start, (_, end) = first_token(model), special_tokens(model.tokenizer)
    encoded = [model.tokenizer(text, add_special_tokens=False, verbose=False) for text in passages(path)]
    rows = [list(passage["input_ids"]) for passage in encoded]
    longest = min(WINDOW, context_of(model)) - (start is not None) - len(end)
    total = sum(map(len, rows))
    # Selecting heads on one half of the examples and confirming on the other takes 8.
    size = longest if len(rows) >= 8 else min(longest, total // 8)
    windows = [
        (number, row[at : at + size]) for number, row in enumerate(rows) for at in range(0, len(row), max(1, size))
    ]
    windows = [(number, window) for number, window in windows if len(window) >= 4]
    if not windows:
        raise ValueError(
            f"the text has {total} tokens in {len(rows)} passages: too few to split into 8 examples of at least 4"
        )
    lead = [] if start is None else [start]
    padded = _padded([lead + window + end for _, window in windows])
    labels = [number if len(rows) >= 8 else index for index, (number, _) in enumerate(windows)]
    padded = padded.clustered(labels)
    batches = -(-len(padded) // 16)
    return [padded.take(rows) for rows in np.array_split(np.arange(len(padded)), batches)]


def repeats(model: Model, *, examples: int, longest: int, seed: int) -> Repeats:
    """Draw `[first, r, r]` with random r of random length, and DRAWS shuffles of it."""
    drawn = random_repeats(model, examples, longest // 2, longest, seed)
    nulls = tuple(Batch(drawn.shuffled(seed + 1 + draw).tokens, drawn.mask) for draw in range(DRAWS))
    return Repeats(Batch(drawn.tokens, drawn.mask), nulls)


def random_repeats(model: Model, examples: int, shortest: int, longest: int, seed: int) -> RepeatedTokens:
    """Draw `[first, r, r]` with random r of `shortest` to `longest` tokens, less where the model reads fewer.

    Only tokens that texts are made of are drawn, and where they are few the segments are shorter.
    """
    vocabulary = model.config.vocab_size
    allowed = ordinary_tokens(model.tokenizer, vocabulary)
    # A null has other tokens than the segment in every position, so a small vocabulary allows half of its own.
    longest = min(longest, (context_of(model) - 1) // 2, len(allowed) // 2)
    if longest < 1:
        raise ValueError(f"random segments need 2 tokens that texts are made of; {model.name} has {len(allowed)}")
    return repeated_tokens(
        vocabulary,
        examples=examples,
        shortest=min(shortest, longest),
        longest=longest,
        first=first_token(model),
        avoid=np.setdiff1d(np.arange(vocabulary), allowed).tolist(),
        seed=seed,
    )


def context_of(model: Model) -> int:
    """Return the number of tokens that a model reads at most; a large one where positions are relative."""
    context = model.config.max_position_embeddings
    return 2**20 if context is None else context


def with_targets(model: Model, batch: Batch) -> Batch:
    """Return a batch of texts, padded on the right, with each text as the decoder's input, after its start token."""
    tokens, mask = np.asarray(batch.tokens), np.asarray(batch.mask)
    # The last token is what the decoder would predict last; it is no input.
    targets, target_mask = np.roll(tokens, 1, axis=1), np.roll(mask, 1, axis=1)
    targets[:, 0], target_mask[:, 0] = model.start_token(), True
    return Batch(tokens, mask, targets=targets, target_mask=target_mask, clusters=batch.clusters)


def _padded(rows: Iterable[list[int]]) -> Batch:
    rows = list(rows)
    width = max(map(len, rows))
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], mask[index, : len(row)] = row, True
    return Batch(tokens, mask)
