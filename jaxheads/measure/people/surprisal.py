"""Surprisal of words: how little a model expects each, by the words before it or by all others.

Dimension key: B examples, T positions, R rows read, W words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...execution.cost import FLOAT
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.batch import Batch
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import take_rows
from ...objectives import Reads, needs_logits, read_out
from ...programs import compiled, to_device
from ...progress import progress as show_progress
from ..example_chunks import choose_chunks, run_examples
from .readings import Words as Readings
from .readings import sentences_of


class Predictions(NamedTuple):
    """Runs of some sentences that predict their tokens, each token once.

    Attributes:
        batch: the runs: the sentences, or copies of them with masked tokens.
        reads: the rows that predict, and the tokens that they predict; weight 0 where a row predicts none.
        sentence: index of the sentence of each run, `[B]`.
        word: index of the word of each predicted token, `[B,R]`; -1 for none.
    """

    batch: Batch
    reads: Reads
    sentence: np.ndarray
    word: np.ndarray


def check_predicts(model: Model) -> None:
    """Raise ValueError for a model that predicts no words, or those of another stream."""
    needs_logits(model, "surprisal")
    tokenizer: Any = model.tokenizer
    if len(model.network.streams) > 1 or model.network.classes_of is not None:
        raise ValueError(
            f"surprisal needs a language model, causal or masked; {model.name} has "
            f"{'several streams' if len(model.network.streams) > 1 else 'logits of classes'}"
        )
    if not model.causal and getattr(tokenizer, "mask_token_id", None) is None:
        raise ValueError(f"surprisal of a masked model needs a mask token; the tokenizer of {model.name} has none")


@dataclass(frozen=True)
class PredictionBatches:
    """Batches of runs that predict the tokens of all sentences; iterates over `Predictions`.

    Attributes:
        whole_words: of a masked model, whether the later pieces of a word are masked with each piece of it.
    """

    model: Model
    batches: SentenceBatches
    whole_words: bool

    def __iter__(self) -> Iterator[Predictions]:
        for indices, batch in self.batches:
            assert batch.words is not None, "sentences are encoded with their words"
            words_BT = np.where(np.asarray(batch.mask), np.asarray(batch.words), -1)
            yield (self._causal if self.model.causal else self._masked)(indices, batch.model_inputs, words_BT)

    def _causal(self, indices: np.ndarray, batch: Batch, words_BT: np.ndarray) -> Predictions:
        """Return the sentences as they are: each row predicts the token after it."""
        mask_BT, tokens_BT = np.asarray(batch.mask), np.asarray(batch.tokens)
        word_BR = np.where(mask_BT[:, :-1], words_BT[:, 1:], -1)
        rows_BR = np.broadcast_to(np.arange(word_BR.shape[1]), word_BR.shape)
        return Predictions(batch, _reads(rows_BR, tokens_BT[:, 1:], word_BR), indices, word_BR)

    def _masked(self, indices: np.ndarray, batch: Batch, words_BT: np.ndarray) -> Predictions:
        """Return a copy of its sentence for each token, which is masked there (Salazar et al. 2020)."""
        example_C, position_C = np.nonzero(words_BT >= 0)
        tokens_CT, T = np.asarray(batch.tokens)[example_C].copy(), words_BT.shape[1]
        word_C1 = words_BT[example_C, position_C][:, None]
        target_C1 = tokens_CT[np.arange(len(tokens_CT)), position_C][:, None]
        hidden_CT = np.arange(T) == position_C[:, None]
        if self.whole_words:
            hidden_CT |= (words_BT[example_C] == word_C1) & (np.arange(T) > position_C[:, None])
        tokens_CT[hidden_CT] = self.model.tokenizer.mask_token_id
        copies = replace_tokens(batch.take(example_C), tokens_CT)
        return Predictions(copies, _reads(position_C[:, None], target_C1, word_C1), indices[example_C], word_C1)


def replace_tokens(batch: Batch, tokens_BT: np.ndarray) -> Batch:
    """Return the batch with other tokens of the same shape."""
    return replace(batch.without("tokens"), tokens=to_device(tokens_BT, np.int32))


def _reads(rows_BR: np.ndarray, target_BR: np.ndarray, word_BR: np.ndarray) -> Reads:
    real_BR = word_BR >= 0
    target_BR = np.where(real_BR, target_BR, 0)
    return Reads(to_device(rows_BR, np.int32), None, to_device(target_BR, np.int32), to_device(real_BR, np.float32))


def surprisals(read: Array, reads: Reads) -> Array:
    """Return −log p of the tokens that rows predict, in nats, `[B,R]`; 0 where a row predicts none."""
    assert reads.weight is not None
    return -read.astype(jnp.float32) * reads.weight


@compiled
def _run(network: Network, batch: Batch, reads: Reads) -> Array:
    return surprisals(read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads), reads)


class WordSums:
    """Sums over the pieces of words, of the sentences with these indices, by cell."""

    def __init__(self, sentences: Sentences, cells: int, indices: Iterable[int]):
        lengths = {index: len(sentences[index].words) for index in indices}
        self.sums = {index: np.zeros((cells, length)) for index, length in lengths.items()}
        self.pieces = {index: np.zeros(length, int) for index, length in lengths.items()}

    def add(self, sentence: int, word_R: np.ndarray, values_CR: np.ndarray) -> None:
        """Add what one run predicted: the word of each row, -1 for none, and its value in each cell."""
        real_R = word_R >= 0
        np.add.at(self.sums[sentence].T, word_R[real_R], values_CR.T[real_R])
        np.add.at(self.pieces[sentence], word_R[real_R], 1)

    def words(self, sentence: int, first_missing: int | None) -> np.ndarray:
        """Return the sums by word, `[C,W]`; NaN for words without a predicted token, and for the missing first one."""
        values_CW = np.where(self.pieces[sentence] > 0, self.sums[sentence], np.nan)
        if first_missing is not None:
            values_CW[:, first_missing] = np.nan
        return values_CW


def first_words(model: Model, batches: SentenceBatches) -> list[int | None]:
    """Return, for each sentence, the word whose first token has no token before it in a causal model; else None."""
    first: list[int | None] = [None] * len(batches.sentences)
    if model.causal:
        for indices, batch in batches:
            words_BT, mask_BT = np.asarray(batch.words), np.asarray(batch.mask)
            start_B = mask_BT.argmax(axis=1)
            for index, word in zip(indices.tolist(), words_BT[np.arange(len(start_B)), start_B].tolist(), strict=True):
                first[index] = word if word >= 0 else None
    return first


@shares_options(without=("level", "seed", "stack"))
def surprisal(
    model: Model, words: Readings, *, whole_words: bool = False, **options: Unpack[Options]
) -> list[np.ndarray]:
    """Compute the surprisal of every word, in nats: for each sentence an array `[W]`.

    Of a causal model it is the sum of −log p over the word's tokens, each by all tokens before it. Of a masked model it
    is the word's share of the pseudo-log-likelihood (Salazar et al. 2020): the sum of −log p over its tokens, each
    masked in a copy of the sentence.

    Args:
        words: sentences, as lists of words or `jaxheads.data.Sentences`. Words of one list are a text's: give whole
            texts, as far as the context reaches.
        whole_words: of a masked model, mask with each token the later ones of its word, which else betray it (Kauf &
            Ivanova 2023).
        options: shared by all questions: memory, devices, progress, resume.

    Returns:
        NaN for a word whose first token has no token before it (a causal model without a start token), one without a
        token of its own, and all words of a sentence that is longer than the context.

    Raises:
        ValueError: for a model that predicts no words, or no sentence that fits its context.
    """
    check_predicts(model)
    resources = Resources.of(options)
    sentences = sentences_of(words)
    batches = SentenceBatches(model, sentences)
    sums = WordSums(sentences, 1, batches.kept.tolist())
    with show_progress(None, f"surprisal by {model.name}", resources.progress) as advance:
        for runs in PredictionBatches(model, batches, whole_words):

            def add(examples: np.ndarray, values_BR: np.ndarray, runs: Predictions = runs) -> None:
                for example, values_R in zip(examples, values_BR, strict=True):
                    sums.add(int(runs.sentence[example]), runs.word[example], values_R[None])
                advance(len(examples))

            compute = partial(_compute, resources, model, runs)
            stack = model.network.streams[-1]
            rows = runs.word.shape[1]
            run_examples(
                choose_chunks(resources, model, stack, runs.batch, example_bytes=2 * FLOAT * rows * stack.width),
                len(runs.batch),
                compute,
                add,
                resources=resources,
                journal=resources.journal("surprisal", model, runs.batch, runs.reads.identity, int(runs.sentence[0])),
                first=0,
            )
    first, kept = first_words(model, batches), {*batches.kept.tolist()}
    return [
        sums.words(index, first[index])[0] if index in kept else np.full(len(one.words), np.nan)
        for index, one in enumerate(sentences)
    ]


def _compute(resources: Resources, model: Model, runs: Predictions, examples: np.ndarray) -> Array:
    batch, reads = resources.devices.examples((runs.batch.take(examples), runs.reads.take(examples)))
    return _run(resources.network(model), batch, reads)
