"""Reading times: what a model's surprisal explains of them, and what each head adds to that.

Dimension key: B examples, R rows, W words, C cells, G groups of documents, L layers, N heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...measure.example_chunks import run_examples
from ...measure.people.readings import Words as Readings
from ...measure.people.readings import check_language, controls_of, numbers_of, sentences_of
from ...measure.people.regression import SurprisalMoments, TimeRegression
from ...measure.people.surprisal import (
    PredictionBatches,
    Predictions,
    WordSums,
    check_predicts,
    first_words,
    surprisal,
    surprisals,
)
from ...measure.words.relations import share
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Reads
from ...progress import progress as show_progress
from ...provenance import provenance
from ...tables import HeadTable
from ..grid import Heads, head_mask, site_grid
from ..question import Question
from .plan import edit_groups, set_groups
from .replacement import Replacement
from .work import exact

ANY = (-np.inf, np.inf)


@dataclass(frozen=True)
class TokenSurprisal:
    """Objective with a value for each row that predicts a token, `[B,R]`, which the engine alone may be given."""

    name: str = "surprisal"

    def reads(self, model: Model, batch: Any) -> Reads:
        """Raise TypeError: the rows come from `Predictions`."""
        raise TypeError("the rows of tokens' surprisal come from the batches of sentences")

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """Return −log p of the predicted tokens."""
        return surprisals(read, reads)


@shares_options(without=("clusters",), copies=True)
@checked(spill_over=at_least(0))
def reading_times(
    model: Model,
    words: Readings,
    times: Sequence[ArrayLike],
    method: Literal["zero", "mean"] = "mean",
    *,
    heads: Heads | None = None,
    spill_over: int = 1,
    whole_words: bool = False,
    beyond: Mapping[str, Sequence[ArrayLike]] | None = None,
    language: str = "en",
    documents: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> HeadTable:
    """Return what the model's surprisal adds to a regression of reading times, with each head ablated.

    The regression predicts the time of a word by what is known of it and of the words before it (the controls), without
    and with their surprisal. The gain is the difference of the two log-likelihoods, nats a word (Goodkind & Bicknell
    2018), of documents that the regressions were not fitted on (folds of whole documents, at most 10).

    Args:
        words: sentences, as lists of words or `jaxheads.data.Sentences`: whole texts, as far as the context reaches.
        times: for each, a reading time of each word; NaN where there is none.
        method: what replaces a head's output: "zero", or "mean", over the positions of the first batch of sentences.
        heads: (layer, head) pairs to ablate, () for none; all when left out. Others are NaN.
        spill_over: the number of words before, whose controls and surprisal predict a word's time, too.
        whole_words: as `surprisal` has it.
        beyond: the controls, by name a number of each word of each sentence; when left out the length in characters,
            the log frequency (the package wordfreq) and the position. Those of the words before are controls, too, but
            for names that begin with "position".
        language: of the frequencies.
        documents: the text of each sentence.
        options: shared by all questions: stack, level, seed, memory, devices, progress, resume.

    Returns:
        `gain` of the model without the head, and `effect`, that gain less the unedited model's: below 0 for a head
        that surprisal needs to be like people's. Intervals are over documents; rows of `.per_example`, documents
        (beyond 2,040, groups of them).
        `.provenance["unedited"]` is the unedited model's gain with its interval, `["words"]` the number of words.

    Raises:
        ValueError: for a model that predicts no words, times that are not one a word, or too few words or documents.
    """
    check_predicts(model)
    resources, stack, level = Resources.of(options), model.stack(options.get("stack")), options.get("level", 0.95)
    mask_LN = np.full((stack.layers, stack.heads), heads is None)
    if heads:
        mask_LN = head_mask(stack, "z", heads, "heads")
    sentences = sentences_of(words, documents)
    read = numbers_of("times", times, sentences)
    if beyond is None:
        check_language(language)
    controls = controls_of(sentences, beyond, language)
    replacement = Replacement(model, stack, resources, method, None, False)
    batches = SentenceBatches(model, sentences)
    own = {key: value for key, value in options.items() if key in ("memory", "devices", "progress", "resume")}
    unedited = surprisal(model, sentences, whole_words=whole_words, **own)  # type: ignore[arg-type]
    regression = TimeRegression.of(read, controls, unedited, _documents(sentences), spill_over)
    base_G1, counts_G = SurprisalMoments.of(regression, unedited).gains()
    gains_GLN = np.full((len(counts_G), stack.layers, stack.heads), np.nan)
    if mask_LN.any():
        chosen = None if heads is None else [(int(layer), int(head)) for layer, head in np.argwhere(mask_LN)]
        runs = PredictionBatches(model, batches, whole_words)
        gains_GLN[:, mask_LN] = _ablated(model, stack, runs, replacement, resources, chosen, regression).gains()[0]
    base = share(base_G1[..., None], counts_G, level, ANY)
    details = provenance(
        model,
        stack=stack.name,
        method=method,
        spill_over=spill_over,
        beyond=list(controls[0]),
        frequencies=f"wordfreq, {language}" if beyond is None else None,
        sentences=len(sentences),
        left_out_as_too_long=len(batches.left_out),
        words=int(counts_G.sum()),
        documents=regression.documents,
        unedited={name: float(np.asarray(getattr(base, name)).item()) for name in ("mean", "low", "high")},
        files=dict(sentences.files),
        level=level,
        seed=options.get("seed", 0),
    )
    columns = {
        "effect": share(gains_GLN - base_G1[..., None], counts_G, level, ANY),
        "gain": share(gains_GLN, counts_G, level, ANY),
    }
    return HeadTable.from_columns("reading_times", stack.name, columns, details)


def _documents(sentences: Sentences) -> list[int]:
    """Return the number of each sentence's document; one without is its own."""
    owners = [one.document if one.document is not None else number for number, one in enumerate(sentences)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(owners))}
    return [numbers[name] for name in owners]


def _ablated(
    model: Model,
    stack: Stack,
    runs: PredictionBatches,
    replacement: Replacement,
    resources: Resources,
    heads: Heads | None,
    regression: TimeRegression,
) -> SurprisalMoments:
    """Return the moments of the words' surprisal with each head ablated; no word's numbers are kept."""
    sentences, first = runs.batches.sentences, first_words(model, runs.batches)
    moments: SurprisalMoments | None = None
    with show_progress(None, f"surprisal by {model.name} with heads ablated", resources.progress) as advance:
        for current, question in _questions(model, stack, runs, replacement, resources, heads):
            moments = moments or SurprisalMoments(regression, question.size)
            own = np.unique(current.sentence).tolist()
            sums = WordSums(sentences, question.size, own)

            def compute(examples: np.ndarray, question: Question = question) -> np.ndarray:
                work = question.work(examples)
                effects = [work.effects(group) for group in question.groups]
                base_BR = work.baselines()()[0]
                values_BCR = np.empty((len(examples), question.size, base_BR.shape[1]))
                for group, later in zip(question.groups, effects, strict=True):
                    values_BCR[:, group.cells] = later() + base_BR[:, None]
                return values_BCR

            def add(
                examples: np.ndarray, values_BCR: np.ndarray, sums: WordSums = sums, current: Predictions = current
            ) -> None:
                for example, values_CR in zip(examples, values_BCR, strict=True):
                    sums.add(int(current.sentence[example]), current.word[example], values_CR)
                advance(len(examples))

            about = (stack.name, replacement.identity, heads, int(current.sentence[0]))
            journal = resources.journal("reading times", model, current.batch, current.reads.identity, about)
            run_examples(question.chunks, len(current.batch), compute, add, resources=resources, journal=journal)
            for index in own:
                moments.add(index, sums.words(index, first[index]))
    assert moments is not None, "there is a sentence that fits"
    return moments


def _questions(
    model: Model,
    stack: Stack,
    runs: PredictionBatches,
    replacement: Replacement,
    resources: Resources,
    heads: Heads | None,
) -> Iterator[tuple[Predictions, Question]]:
    """Yield the runs that predict words, and the question of the engine that edits them."""
    settled: Replacement | None = None
    first = 0
    for current in runs:
        if settled is None:
            reference = current.batch if replacement.method == "mean" else None
            settled = Replacement(model, stack, resources, replacement.method, reference, False).settled(current.batch)
        if heads is None:
            grid = site_grid(stack, "z", current.batch, ("layer", "head"))
            cells: Any = grid, edit_groups(stack, "z", current.batch, grid)
        else:
            cells = set_groups(stack, "z", {str(pair): [pair] for pair in heads})
        yield (
            current,
            exact(
                model,
                stack,
                current.batch,
                TokenSurprisal(),
                current.reads,
                cells,
                settled.of(current.batch, first),
                resources,
                identity=(),
                about={},
            ),
        )
        first += len(current.batch)
