"""What each head attends to beside what people look at: gaze, or reading times, of every word.

Dimension key: E sentences, B sentences of a chunk, R rows of sums, L layers, N heads, T positions, S key positions, W
words (special tokens among them), t query words of a block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Unpack, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.cost import FLOAT
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.batch import Batch
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...objectives import Objective
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ...statistics import mean_interval, partial_rank_correlation
from ...tables import Column, HeadTable
from ..example_chunks import choose_chunks, run_examples
from ..patterns.value_norms import OfNorms, gram
from ..patterns.word_pooling import OverWords, Words, check_over
from ..relevance.backward_pass import Watch
from ..relevance.batch_objective import BatchObjective
from .readings import Words as Readings
from .readings import check_language, controls_of, numbers_of, sentences_of

Received = Literal["weights", "norms", "relevance"]
"""What a word receives: attention, its norms, or relevance for an objective."""

ROWS = 2048
"""Sentences beyond this number share rows with others of their document, so that memory does not grow."""


@dataclass(frozen=True)
class ColumnSums:
    """A `RowReader` of patterns over words: the attention that each word receives from words, itself among them.

    Attributes:
        words_BW: which positions are words, and not special tokens or padding.
        heads: N.
    """

    words_BW: Array
    heads: int

    def start(self) -> Array:
        """Return the sums of no rows, `[B,N,W]`."""
        B, W = self.words_BW.shape
        return jnp.zeros((B, self.heads, W))

    def add(self, sums: Array, sites: Mapping[str, Array], first: Array | int) -> Array:
        """Return the sums with those of the query rows from `first` on."""
        pattern_BNtW = sites["pattern"]
        rows_t, W = first + jnp.arange(pattern_BNtW.shape[2]), self.words_BW.shape[1]
        gives_Bt = jnp.take(self.words_BW, rows_t, axis=1, mode="clip") & (rows_t < W)[None]
        return sums + jnp.einsum("bntw,bt->bnw", pattern_BNtW.astype(jnp.float32), gives_Bt.astype(jnp.float32))

    def finish(self, sums: Array) -> Array:
        """Return the sums over all rows, `[B,N,W]`."""
        return sums


@shares_options(without=("clusters",))
@checked(least=at_least(1))
def human(
    model: Model,
    words: Readings,
    values: Sequence[ArrayLike],
    of: Received = "weights",
    objective: Objective | None = None,
    *,
    beyond: Mapping[str, Sequence[ArrayLike]] | None = None,
    language: str = "en",
    documents: Sequence[str] | None = None,
    least: int = 4,
    **options: Unpack[Options],
) -> HeadTable:
    """Correlate what each head gives every word with a number from people's reading: one row a head.

    A word receives the sum of its column in the pattern between the sentence's words, its own row among them; special
    tokens neither give nor receive. Patterns over words are made within the forward pass, and none is kept.

    Args:
        words: the sentences, as lists of words or `jaxheads.data.Sentences`.
        values: for each sentence, a number of each word: relative fixation, reading time. NaN where there is none.
        of: what words receive: "weights", attention; "norms", ‖α f(x)‖ as shares of each query's (Kobayashi et al.
            2020); "relevance", (∇A ⊙ A)⁺ for the objective (Chefer et al. 2021, equation 5), from special tokens, too.
        objective: of "relevance", such as `jh.loss()`.
        beyond: the controls of `partial`, by name a number of each word of each sentence. When left out: the word's
            length in characters, its log frequency (the package wordfreq, Zipf scale) and its position.
        language: of the frequencies.
        documents: the text of each sentence; those of one text depend on each other.
        least: sentences with fewer words than this are left out.
        options: shared by all questions: stack, level, seed, memory, devices, progress, resume.

    Returns:
        `spearman`, the rank correlation within a sentence, averaged over sentences; `partial`, that of what the ranks
        of the controls leave of both, over sentences with at least 3 words more than controls. Intervals are over
        documents, or sentences without one. `.per_example` has one row a sentence (None beyond 2048), NaN for one that
        is too short, longer than the context, or has no numbers. `.provenance` counts them.

    Raises:
        ValueError: for numbers that are not one a word, a language that wordfreq lacks, a stack whose positions are
            not tokens, "relevance" without an objective, or no sentence that can be correlated.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    check_over("words", stack, model.name)
    one_of("of", of, get_args(Received))
    if (objective is None) == (of == "relevance"):
        raise ValueError('objective: "relevance" needs one, such as jh.loss(), and nothing else takes one')
    sentences = sentences_of(words, documents)
    read = numbers_of("values", values, sentences)
    if beyond is None:
        check_language(language)
    controls = controls_of(sentences, beyond, language)
    batches = SentenceBatches(model, sentences)
    sums = Correlations(sentences, options.get("level", 0.95))
    label = f"{stack.layers * stack.heads} heads of {model.name} beside people"
    with show_progress(len(batches.kept), label, resources.progress) as advance:
        for indices, batch in batches:
            numbers_BW = Words.of(batch).numbers

            def add(examples: np.ndarray, received_BLNW: np.ndarray, at: Any = (indices, numbers_BW)) -> None:
                for example, received_LNW in zip(examples, received_BLNW, strict=True):
                    index = int(at[0][example])
                    own = _by_word(received_LNW, at[1][example], len(read[index]))
                    sums.add(index, correlations(own, read[index], list(controls[index].values()), least))
                advance(len(examples))

            _receive(resources, model, stack, batch, of, objective, int(indices[0]), add)
    details = provenance(
        model,
        stack=stack.name,
        of=of,
        objective=None if objective is None else objective.name,
        beyond=list(controls[0]),
        frequencies=f"wordfreq, {language}" if beyond is None else None,
        sentences=len(sentences),
        left_out_as_too_long=len(batches.left_out),
        correlated=sums.counted,
        files=dict(sentences.files),
        level=options.get("level", 0.95),
        seed=options.get("seed", 0),
    )
    return sums.table(stack.name, details)


def _by_word(received_LNW: np.ndarray, numbers_W: np.ndarray, count: int) -> np.ndarray:
    """Return what each of the sentence's words receives, `[L,N,count]`; NaN for a word without a token."""
    own = np.full((*received_LNW.shape[:2], count), np.nan)
    inside = numbers_W >= 0
    own[..., numbers_W[inside]] = received_LNW[..., inside]
    return own


def correlations(received_LNW: np.ndarray, values_W: np.ndarray, controls: Sequence[np.ndarray], least: int) -> Any:
    """Return Spearman's correlation with the values, and the partial one, `[2,L,N]`; NaN with too few words."""
    known_W = ~np.isnan(values_W) & ~np.isnan(received_LNW[0, 0])
    beyond_CW = np.array(controls).reshape(len(controls), len(values_W))
    known_W &= ~np.isnan(beyond_CW).any(axis=0)
    if known_W.sum() < max(least, 2):
        return np.full((2, *received_LNW.shape[:2]), np.nan)
    received_LNW, values_W, beyond_CW = received_LNW[..., known_W], values_W[known_W], beyond_CW[:, known_W]
    # Sums of float32 that differ in their last bits alone are ties.
    sizes_LN1 = np.abs(received_LNW).max(axis=-1, keepdims=True)
    received_LNW = np.round(received_LNW / np.where(sizes_LN1 > 0, sizes_LN1, 1.0), 6)
    return np.stack(
        [
            partial_rank_correlation(received_LNW, values_W),
            partial_rank_correlation(received_LNW, values_W, beyond_CW),
        ]
    )


@dataclass
class Correlations:
    """Correlations of sentences, in rows of bounded number."""

    sentences: Sentences
    level: float
    counted: int = 0
    row_E: np.ndarray = field(init=False)
    cluster_E: np.ndarray = field(init=False)
    _sums: np.ndarray | None = field(default=None, init=False)
    _counts: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        names = [own.document if own.document is not None else number for number, own in enumerate(self.sentences)]
        order = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.cluster_E = np.array([order[name] for name in names])
        self.row_E = np.arange(len(names)) if len(names) <= ROWS else self.cluster_E % ROWS

    def add(self, index: int, values_2LN: np.ndarray) -> None:
        """Add the correlations of one sentence."""
        if self._sums is None or self._counts is None:
            shape = (int(self.row_E.max()) + 1, *values_2LN.shape)
            self._sums, self._counts = np.zeros(shape), np.zeros(shape, np.int64)
        known = ~np.isnan(values_2LN)
        self._sums[self.row_E[index]] += np.where(known, values_2LN, 0.0)
        self._counts[self.row_E[index]] += known
        self.counted += bool(known[0].any())

    def table(self, stack: str, details: Mapping[str, Any]) -> HeadTable:
        """Return the table of all sentences that were added.

        Raises:
            ValueError: where no sentence could be correlated.
        """
        if self._sums is None or self._counts is None or not self.counted:
            raise ValueError("values: no sentence has enough words with a number, and numbers that differ")
        alone = len(self.sentences) <= ROWS
        rows = np.divide(self._sums, self._counts, out=np.full(self._sums.shape, np.nan), where=self._counts > 0)
        clusters, columns = self.cluster_E if alone else None, {}
        for number, name in enumerate(("spearman", "partial")):
            counts = None if alone else self._counts[:, number]
            interval = mean_interval(
                rows[:, number], counts=counts, clusters=clusters, within=(-1.0, 1.0), level=self.level
            )
            columns[name] = Column(*interval, rows[:, number] if alone else None, range=(-1.0, 1.0))
        return HeadTable.from_columns("human", stack, columns, details, clusters=clusters)


def _receive(
    resources: Resources,
    model: Model,
    stack: Stack,
    batch: Batch,
    of: Received,
    objective: Objective | None,
    first: int,
    add: Any,
) -> None:
    """Compute what each word of a batch receives, `[B,L,N,W]`, chunk by chunk."""
    words = Words.of(batch)
    W, T = words.numbers.shape[1], stack.queries.count(batch)
    example_bytes = words.pattern_bytes(stack.heads) + FLOAT * stack.layers * stack.heads * (W + T)
    explained = None if objective is None else BatchObjective.of(model, batch, objective, resources)
    if explained is not None:
        example_bytes += explained.example_bytes(stack.heads * T)

    def compute(examples: np.ndarray) -> Any:
        if explained is not None:
            return relevance_of_words(explained.take(examples), stack.name, words.of_tokens[examples], W)
        taken = (
            batch.model_inputs.take(examples),
            words.of_tokens[examples],
            words.numbers[examples] >= 0,
        )
        placed = (resources.devices.examples(part) for part in taken)
        return _program()(resources.network(model), *placed, stack=stack.name, of=of)

    run_examples(
        choose_chunks(resources, model, stack, batch, example_bytes=example_bytes),
        len(batch),
        compute,
        add,
        resources=resources,
        journal=resources.journal("human", model, batch, stack.name, of, objective, first),
        first=first,
    )


@cache
def _program() -> Any:
    return compiled(_received, static_argnames=("stack", "of"))


def _received(network: Network, batch: Any, word_BT: Array, words_BW: Array, *, stack: str, of: Received) -> Array:
    """Return what each word receives, `[B,L,N,W]`."""
    own = network.stack(stack)
    pooled: Any = OverWords(ColumnSums(words_BW, own.heads), word_BT, (len(word_BT), own.heads, words_BW.shape[1]))
    if of == "norms":
        shape = (len(word_BT), own.heads, own.keys.count(batch))
        pooled = OfNorms(pooled, "norms", shape, gram(own), own.sinks is not None)
    return forward(network, batch, (), {stack: pooled})[1][stack].swapaxes(0, 1)


def positive_columns(pattern_BNTS: Array, cotangent_BNTS: Array) -> Array:
    """Return (∇A ⊙ A)⁺ of each head, summed over queries, `[B,N,S]`."""
    product_BNTS = pattern_BNTS.astype(jnp.float32) * cotangent_BNTS.astype(jnp.float32)
    return jnp.maximum(product_BNTS, 0).sum(axis=2)


def relevance_of_words(explained: BatchObjective, stack: str, word_BT: np.ndarray, count: int) -> np.ndarray:
    """Return the relevance of each word by each head, `[B,L,N,W]`: the sum over its pieces."""
    [read_LBNS] = explained.backward(watch=(Watch(stack, "pattern", positive_columns),)).read
    member_BSW = word_BT[:, :, None] == np.arange(count)
    return np.einsum("lbns,bsw->blnw", read_LBNS, member_BSW.astype(np.float32))
