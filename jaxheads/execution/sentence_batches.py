"""Batches of sentences, of nearly equal lengths, each with the numbers of its sentences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arguments import at_least, checked
from ..models.inputs.batch import Batch
from ..models.inputs.sentences import Sentence, Sentences
from ..models.inputs.vocabulary import TOKENIZING
from ..models.model import Model
from .lengths import lengthened

LENGTHS = 8
"""Sentences of a batch are padded to a multiple of this number of tokens, so that few lengths compile."""


@checked(examples=at_least(1))
@dataclass(frozen=True, eq=False)
class SentenceBatches:
    """Batches of sentences for a model, sorted by length; iterates over pairs of indices and batch.

    A sentence that is longer than the model's context is left out, and counted.

    Attributes:
        model: the model that reads them.
        sentences: all sentences.
        examples: sentences of a batch, at most.
        kept: indices of the sentences that fit, in their order.
        left_out: indices of those that do not.

    Raises:
        ValueError: for a model without a fast tokenizer, or no sentence that fits.
    """

    model: Model
    sentences: Sentences
    examples: int = 64
    kept: np.ndarray = field(init=False)
    left_out: np.ndarray = field(init=False)
    _lengths: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tokenizer, context = self.model.tokenizer, self.model.config.max_position_embeddings
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            why = self.model.no_tokenizer if tokenizer is None else "its tokenizer is a slow one"
            raise ValueError(f"sentences need a tokenizer that knows its words' places; {self.model.name}: {why}")
        lengths = np.array([len(ids) for ids in _ids(tokenizer, self.sentences)], int)
        fits = lengths <= (lengths.max(initial=0) if context is None else context)
        if not fits.any():
            raise ValueError(f"none of {len(lengths)} sentences fits the {context} tokens of {self.model.name}")
        object.__setattr__(self, "kept", np.flatnonzero(fits))
        object.__setattr__(self, "left_out", np.flatnonzero(~fits))
        object.__setattr__(self, "_lengths", lengths)

    def __len__(self) -> int:
        return -(-len(self.kept) // self.examples)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Batch]]:
        # Equal lengths stay in their order: batches are the same in every process.
        order = self.kept[np.argsort(self._lengths[self.kept], kind="stable")]
        for first in range(0, len(order), self.examples):
            indices = order[first : first + self.examples]
            batch = self.model.encode(self.sentences.take(indices.tolist()))
            length, context = -(-batch.tokens.shape[1] // LENGTHS) * LENGTHS, self.model.config.max_position_embeddings
            yield indices, lengthened(batch, tokens=length if context is None else min(length, context))


def _ids(tokenizer: Any, sentences: Iterable[Sentence]) -> list[list[int]]:
    with TOKENIZING:
        return tokenizer([one.text for one in sentences], verbose=False)["input_ids"]
