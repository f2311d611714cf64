"""What the atlas shows a model: prose, repeated random tokens, and prompts with an indirect object."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jax import Array

from ..data.prompts import ioi_prompts
from ..data.prose import passages
from ..data.synthetic import RepeatedTokens, repeated_tokens
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..objectives import Objective, logit_difference, loss

WINDOW = 128
"""Tokens of prose in one example, at most."""

ABLATED_WINDOW = 24
"""Tokens of prose in one example of an ablation: a whole sweep of heads is run on each."""


@dataclass(frozen=True)
class Question:
    """One ablation of every head.

    Attributes:
        name: the column of its effects.
        what: in words.
        reference: where the mean that replaces a head is taken; None for the batch itself.
    """

    name: str
    what: str
    batch: Batch
    objective: Objective
    reference: Batch | None = None


@dataclass(frozen=True)
class Repeats:
    """Repeated random tokens, and the null: the same positions with a second half that repeats nothing."""

    batch: Batch
    null: Batch


def first_token(model: Model) -> int | None:
    """The token that sequences begin with: BOS, or an encoder's [CLS]; None where the tokenizer has neither."""
    ids = (model.tokenizer.bos_token_id, model.tokenizer.cls_token_id)
    return next((token for token in ids if token is not None), None)


def prose(model: Model, path: str | os.PathLike | None) -> list[Batch]:
    """Passages in windows of at most `WINDOW` tokens, every token in one of them, in batches of one width.

    Raises:
        FileNotFoundError: for a text that is not there.
        ValueError: for a text without words, or too short to split into 8 windows of 4 tokens.
    """
    start = first_token(model)
    encoded = [model.tokenizer(text, add_special_tokens=False, verbose=False) for text in passages(path)]
    rows = [list(one["input_ids"]) for one in encoded]
    room = min(WINDOW, model.config.max_position_embeddings) - (start is not None)
    total = sum(map(len, rows))
    size = room if len(rows) >= 8 else min(room, total // 8)
    if size < 4:
        raise ValueError(
            f"the text has {total} tokens in {len(rows)} passages: too few to split into 8 examples of at least 4"
        )
    windows = [row[at : at + size] for row in rows for at in range(0, len(row), size)]
    lead = [] if start is None else [start]
    whole = _padded([lead + window for window in windows if len(window) >= 4])
    pieces = -(-len(whole) // 16)
    return [whole.take(piece) for piece in np.array_split(np.arange(len(whole)), pieces)]


def repeats(model: Model, *, examples: int, longest: int, seed: int) -> Repeats:
    """`[first, r, r]` with random r of random length, and its shuffled null."""
    made = _random_repeats(model, examples, longest // 2, longest, seed)
    return Repeats(Batch(made.tokens, made.mask), Batch(made.shuffled(seed + 1).tokens, made.mask))


def _random_repeats(model: Model, examples: int, shortest: int, longest: int, seed: int) -> RepeatedTokens:
    longest = min(longest, (model.config.max_position_embeddings - 1) // 2)
    return repeated_tokens(
        model.config.vocab_size,
        examples=examples,
        shortest=min(shortest, longest),
        longest=longest,
        first=first_token(model),
        avoid=[token for token in model.tokenizer.all_special_ids if token < model.config.vocab_size],
        seed=seed,
    )


def questions(model: Model, text: list[Batch], *, examples: int, seed: int) -> tuple[list[Question], list[str]]:
    """The ablations that this model can be asked, and why the others are left out."""
    if model.network.unembedding is None or not model.causal:
        kind = "has no language-model head" if model.network.unembedding is None else "is an encoder"
        return [], [f"ablations (they need a decoder's next-token loss or logit difference): {model.name} {kind}"]
    asked = [_prose_question(text, examples), _repeats_question(model, examples, seed)]
    try:
        asked.append(_ioi_question(model, examples, seed))
    except ValueError as reason:
        return asked, [f"the indirect-object prompts: {reason}"]
    return asked, []


def _prose_question(text: list[Batch], examples: int) -> Question:
    tokens, mask = (np.concatenate([np.asarray(part) for part in parts]) for parts in _fields(text))
    longest_first = np.argsort(-np.minimum(mask.sum(axis=1), ABLATED_WINDOW), kind="stable")[:examples]
    cut = Batch(tokens[longest_first, :ABLATED_WINDOW], mask[longest_first, :ABLATED_WINDOW])
    what = f"next-token loss on prose: the first {cut.tokens.shape[1]} tokens of {len(cut)} windows"
    return Question("prose_loss", what, cut, loss(), reference=text[0])


def _fields(text: list[Batch]) -> tuple[list[Array], list[Array]]:
    return [batch.tokens for batch in text], [batch.mask for batch in text]


def _repeats_question(model: Model, examples: int, seed: int) -> Question:
    made = _random_repeats(model, examples, 7, 11, seed + 2)
    what = f"next-token loss on the second half of {examples} random segments said twice"
    return Question("repeat_loss", what, Batch(made.tokens, made.mask), loss(made.second))


def _ioi_question(model: Model, examples: int, seed: int) -> Question:
    made = ioi_prompts(model.tokenizer, examples=examples, seed=seed, bos=model.tokenizer.bos_token_id is not None)
    other = made.corrupted(seed + 1)
    what = f"logit difference of indirect object and subject on {examples} prompts; means are over three other names"
    return Question(
        "ioi_logit_difference",
        what,
        Batch(made.tokens, made.mask),
        logit_difference(made.indirect_object, made.subject),
        reference=Batch(other.tokens, other.mask),
    )


def _padded(rows: Iterable[list[int]]) -> Batch:
    rows = list(rows)
    width = max(map(len, rows))
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], mask[index, : len(row)] = row, True
    return Batch(tokens, mask)
