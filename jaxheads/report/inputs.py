"""Inputs of the atlas: prose, repeated random tokens, and prompts with an indirect object."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..data.prompts import ioi_prompts
from ..data.prose import passages
from ..data.synthetic import RepeatedTokens, repeated_tokens
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..objectives import Objective, logit_difference, loss

WINDOW = 128
"""Largest number of prose tokens in one example."""

ABLATED_WINDOW = 24
"""Largest number of prose tokens in one example of an ablation, which runs a sweep of all heads on it."""


@dataclass(frozen=True)
class Ablation:
    """Inputs and objective of one ablation of every head.

    Attributes:
        name: the column of its effects.
        description: the objective and the inputs in words.
        reference: the inputs whose mean replaces a head's output; None for the batch itself.
    """

    name: str
    description: str
    batch: Batch
    objective: Objective
    reference: Batch | None = None


@dataclass(frozen=True)
class Repeats:
    """Repeated random tokens, and their null, whose second half has no repeat."""

    batch: Batch
    null: Batch


def first_token(model: Model) -> int | None:
    """Return the token that begins a sequence: BOS, or an encoder's [CLS]; None if the tokenizer has neither."""
    ids = (model.tokenizer.bos_token_id, model.tokenizer.cls_token_id)
    return next((token for token in ids if token is not None), None)


def prose(model: Model, path: str | os.PathLike | None) -> list[Batch]:
    """Cut passages into windows of at most `WINDOW` tokens, in batches of one width.

    Every token is in one window, except rests of fewer than 4.

    Raises:
        FileNotFoundError: for a missing text.
        ValueError: for a text without words, or too short to split into 8 windows of 4 tokens.
    """
    start = first_token(model)
    encoded = [model.tokenizer(text, add_special_tokens=False, verbose=False) for text in passages(path)]
    rows = [list(passage["input_ids"]) for passage in encoded]
    longest = min(WINDOW, model.config.max_position_embeddings) - (start is not None)
    total = sum(map(len, rows))
    # Selecting heads on one half of the examples and confirming on the other takes 8.
    size = longest if len(rows) >= 8 else min(longest, total // 8)
    if size < 4:
        raise ValueError(
            f"the text has {total} tokens in {len(rows)} passages: too few to split into 8 examples of at least 4"
        )
    windows = [row[at : at + size] for row in rows for at in range(0, len(row), size)]
    lead = [] if start is None else [start]
    padded = _padded([lead + window for window in windows if len(window) >= 4])
    batches = -(-len(padded) // 16)
    return [padded.take(rows) for rows in np.array_split(np.arange(len(padded)), batches)]


def repeats(model: Model, *, examples: int, longest: int, seed: int) -> Repeats:
    """Draw `[first, r, r]` with random r of random length, and its shuffled null."""
    drawn = _random_repeats(model, examples, longest // 2, longest, seed)
    return Repeats(Batch(drawn.tokens, drawn.mask), Batch(drawn.shuffled(seed + 1).tokens, drawn.mask))


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


def ablations(model: Model, text: list[Batch], *, examples: int, seed: int) -> tuple[list[Ablation], list[str]]:
    """Return the ablations that fit this model, and the reasons why others are left out."""
    if model.network.unembedding is None or not model.causal:
        kind = "has no language-model head" if model.network.unembedding is None else "is an encoder"
        return [], [f"ablations (they need a decoder's next-token loss or logit difference): {model.name} {kind}"]
    fitting = [_prose_ablation(text, examples), _repeats_ablation(model, examples, seed)]
    try:
        fitting.append(_ioi_ablation(model, examples, seed))
    except ValueError as reason:
        return fitting, [f"the indirect-object prompts: {reason}"]
    return fitting, []


def _prose_ablation(text: list[Batch], examples: int) -> Ablation:
    tokens, mask = (np.concatenate([np.asarray(getattr(b, name)) for b in text]) for name in ("tokens", "mask"))
    longest_first = np.argsort(-np.minimum(mask.sum(axis=1), ABLATED_WINDOW), kind="stable")[:examples]
    cut = Batch(tokens[longest_first, :ABLATED_WINDOW], mask[longest_first, :ABLATED_WINDOW])
    description = f"next-token loss on prose: the first {cut.tokens.shape[1]} tokens of {len(cut)} windows"
    return Ablation("prose_loss", description, cut, loss(), reference=text[0])


def _repeats_ablation(model: Model, examples: int, seed: int) -> Ablation:
    drawn = _random_repeats(model, examples, 7, 11, seed + 2)
    description = f"next-token loss on the second half of {examples} random segments said twice"
    return Ablation("repeat_loss", description, Batch(drawn.tokens, drawn.mask), loss(drawn.second))


def _ioi_ablation(model: Model, examples: int, seed: int) -> Ablation:
    prompts = ioi_prompts(model.tokenizer, examples=examples, seed=seed, bos=model.tokenizer.bos_token_id is not None)
    corrupted = prompts.corrupted(seed + 1)
    return Ablation(
        "ioi_logit_difference",
        f"logit difference of indirect object and subject on {examples} prompts; means are over three other names",
        Batch(prompts.tokens, prompts.mask),
        logit_difference(prompts.indirect_object, prompts.subject),
        reference=Batch(corrupted.tokens, corrupted.mask),
    )


def _padded(rows: Iterable[list[int]]) -> Batch:
    rows = list(rows)
    width = max(map(len, rows))
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], mask[index, : len(row)] = row, True
    return Batch(tokens, mask)
