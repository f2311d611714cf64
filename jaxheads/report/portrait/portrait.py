"""All that is known of the heads of one stack: an atlas's tables, and what a look at the model adds to them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ...execution.resources import Options
from ...measure.sampling.answer import HeadSample, Samples
from ...measure.sampling.samples import samples
from ...models.inputs.answers import token_texts
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ..page import model_title
from ..role_evidence import ON_PROSE, ON_REPEATS, visible
from ..sources import inputs_of
from .contexts import attended_tokens, contexts_of, favourites, leading_samples, places_of, texts_of
from .exhibits import Exhibit, exhibits
from .history import checkpoints_in, history
from .likeness import neighbours
from .raised_tokens import raised_tokens
from .tables import AtlasTables

MEASURED = 32
"""Sequences of repeated random tokens, as the atlas draws them."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """What is known of every head of one stack.

    Attributes:
        model, title: the model's name, and what it is in words.
        stack, shape: the stack, its layers and heads.
        kind: of the positions that look: "tokens", "targets", "patches" or "frames".
        stacks: number of stacks of the model.
        tables: those of the atlas.
        exhibits: attention on a few inputs.
        samples: where every head looks in texts; None for images, recordings and cross-attention.
        texts: by number, the tokens of texts that contexts are taken from.
        contexts: of each head, the places where it looks hardest, and what it raises there.
        tokens: of each head, the tokens that it attends to beyond their share.
        alike: the most similar heads of each head, or none.
        history: metrics over checkpoints, or None.
        left_out: what is not shown, with reasons.
    """

    model: str
    title: str
    stack: str
    shape: tuple[int, int]
    kind: str
    stacks: int
    tables: AtlasTables
    exhibits: list[Exhibit]
    samples: Samples | None
    texts: dict[int, list[str]]
    contexts: list[list[dict[str, Any]]]
    tokens: list[list[dict[str, Any]]]
    alike: list[list[dict[str, Any]]]
    history: dict[str, Any] | None = None
    left_out: tuple[str, ...] = field(default=())


def portrait(
    model: Model,
    tables: AtlasTables,
    *,
    text: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    **options: Unpack[Options],
) -> Portrait:
    """Look at every head of the stack that an atlas is of: where it attends, what it reads and writes, what is alike.

    Args:
        tables: the stack's atlas.
        text, images, audio: inputs, as `jaxheads.report.atlas.atlas` takes them.
        checkpoints: a folder of models of one training, each in a folder whose name ends in its step.
        options: shared by all questions: seed, memory, devices, progress. The stack is the atlas's.

    Raises:
        ValueError: for an atlas of another model or other heads, inputs that the model does not read, or a checkpoint
            of other heads.
        FileNotFoundError: for a missing file or folder.
    """
    stack = model.stack(tables.table.stack)
    _check(model, stack, tables)
    steps = None if checkpoints is None else checkpoints_in(Path(checkpoints))
    seed = options.get("seed", 0)
    inputs = inputs_of(model, stack, text=text, images=images, audio=audio, measured=MEASURED, seed=seed)
    asked = Options(**{**options, "stack": stack.name})
    left_out: list[str] = []

    def unless_refused(what: str, ask: Callable[[], list[Any]]) -> list[Any]:
        try:
            return ask()
        except ValueError as reason:
            left_out.append(f"{what}: {reason}")
            return []

    readable = stack.queries.kind in ("tokens", "targets") and stack.keys.kind == stack.queries.kind
    sampled = samples(model, inputs.batches, **asked) if readable and model.tokenizer is not None else None
    leading = [] if sampled is None else leading_samples(sampled)
    metrics, repeated, shape = visible(stack, ON_PROSE), visible(stack, ON_REPEATS), (stack.layers, stack.heads)
    return Portrait(
        model=model.name,
        title=model_title(model.name),
        stack=stack.name,
        shape=shape,
        kind=stack.queries.kind,
        stacks=len(model.stacks),
        tables=tables,
        exhibits=exhibits(model, stack, inputs.batches),
        samples=sampled,
        texts={} if sampled is None else texts_of(sampled, leading),
        contexts=[] if sampled is None else _contexts(model, stack, inputs.batches, leading, left_out),
        tokens=[] if sampled is None else _tokens(model, sampled),
        alike=unless_refused("similar heads", lambda: neighbours(model, inputs.batches, **asked)),
        history=None
        if steps is None
        else history(steps, (stack.layers, stack.heads), inputs, metrics, repeated, **asked),
        left_out=(*tables.table.provenance.get("left_out", ()), *left_out),
    )


def _check(model: Model, stack: Stack, tables: AtlasTables) -> None:
    about = tables.table.provenance
    if about["weights"] != model.identity() or tables.table.shape != (stack.layers, stack.heads):
        raise ValueError(
            f"the atlas is of {about['model']} ({about['weights']}), {list(tables.table.shape)} heads; the model is "
            f"{model.name} ({model.identity()}), {[stack.layers, stack.heads]}: make its atlas anew"
        )


def _tokens(model: Model, sampled: Samples) -> list[list[dict[str, Any]]]:
    """Return for each head the tokens whose share of its attention exceeds their share of positions most."""
    assert sampled.attended is not None, "the stack reads tokens"
    ids, usual, shares = attended_tokens(sampled.attended)
    chosen, words = favourites(shares, usual), token_texts(model.tokenizer, ids)
    return [
        [
            {"token": str(words[token]), "share": float(shares[head, token]), "usual": float(usual[token])}
            for token in chosen[head]
            if shares[head, token] > usual[token]
        ]
        for head in range(len(chosen))
    ]


def _contexts(
    model: Model, stack: Stack, batches: list[Batch], leading: list[list[HeadSample]], left_out: list[str]
) -> list[list[dict[str, Any]]]:
    """Return each head's contexts, with the tokens that it raises there where the model has logits."""
    contexts = contexts_of(leading)
    try:
        ids, logits = raised_tokens(model, stack, batches, *places_of(leading))
    except ValueError as reason:
        left_out.append(f"the tokens that heads raise: {reason}")
        return contexts
    words = token_texts(model.tokenizer, ids)
    for head, own in enumerate(contexts):
        for context, raised, by in zip(own, words[head], logits[head], strict=False):
            pairs = zip(raised, by, strict=True)
            context["raised"] = [[str(word), round(float(logit), 2)] for word, logit in pairs if np.isfinite(logit)]
    return contexts
