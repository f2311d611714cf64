"""Scores of every head's attention patterns, for any number of examples, in the memory of one layer.

Dimension key: E examples, B examples of a chunk, T query positions, S key positions, L layers, N heads, M metrics, C
entries of all metrics.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Unpack

import numpy as np
from jax import Array

from ...execution.devices import Devices
from ...execution.example_edits import placed_edits, take_edits
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.attention.row_reader import RowReader
from ...models.inputs.batch import Batch
from ...models.model import Model, check_edit
from ...models.network import Network, forward
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...programs import compiled
from ...progress import progress as show_progress
from ...tables import HeadTable
from ..example_chunks import choose_chunks, run_examples
from ..streams import Batches, inputs_of, scored_pairs
from .compiler_options import lean_options
from .example import counted, examples_of
from .metric import Metric, check_marks, check_metrics, fits, is_own
from .registry import METRICS, resolve
from .row_scores import RowScores, score_bytes
from .score_accumulator import ScoreAccumulator
from .texts import TextScores, separate, texts_of
from .value_norms import Of, OfNorms, check_of, gram
from .word_pooling import Over, OverWords, Words, check_over

Inputs = tuple[Batch, Batch, tuple[SiteEdit, ...]]
"""A batch, the batch that it is scored by, and the edits."""

Add = Callable[[np.ndarray, np.ndarray], None]
"""Takes the indices of a chunk's examples, and their scores `[B,L,N,C]`."""


@shares_options()
def measure(
    model: Model,
    batch: Batches,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    *,
    of: Of = "weights",
    edits: Sequence[SiteEdit] | SiteEdit = (),
    scored_as: Batches | None = None,
    over: Over = "tokens",
    **options: Unpack[Options],
) -> HeadTable:
    """Measure the attention pattern of every head: one row a head, one column a metric.

    Each number is computed inside its layer: patterns are never kept, and memory grows neither with the layers nor with
    the number of examples, which run in chunks. Of a long text's patterns only some query rows are there at a time, so
    that memory grows with its length; a metric that is not `by_rows` needs the whole pattern.

    Args:
        batch: one batch or any iterable of batches, which is read once; those of one shape compile once.
        metrics: names from `METRICS` or `VARIANTS`, or `Metric` values; when left out, all `METRICS` that the stack's
            positions allow.
        of: "norms" reads ‖α f(x)‖, each query's divided by their sum, in place of the weights α, in every metric;
            "raw_norms" does not divide (Kobayashi et al. 2020; see `jaxheads.measure.patterns.value_norms`).
        edits: measure the edited model. An edit with an axis of examples needs a single batch.
        scored_as: batches whose tokens metrics read in place of those that the model reads, with the same masks. This
            is how shuffled text makes a null for `induction`: its own tokens hold no repeat to count.
        over: "words" measures the pattern between words: attention to a word is the sum over its pieces, from a word
            the mean (Clark et al. 2019, section 4.1). A mark of a word is one that any of its pieces has, and equal
            words are those of equal pieces. A special token is a word by itself.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        For each metric its mean and interval; `positional_share` also has the integers `positional_offset`
        (key minus query). `.values` is `[M,L,N]`, `.per_example` `[M,E,L,N]`, or None beyond 2048 examples; a
        single name or value, not in a sequence, leaves out M. NaN where no query counts.
        `.provenance["nothing_to_measure"]` names the metrics that no example counted for, `["not_finite"]`
        is how many numbers were left out because the model overflowed.

    Raises:
        ValueError: for an unknown metric, none, one twice, or one that needs an order or ids that the positions lack
            (the previous token of cross-attention, or of an image); for no batch; for a batch, stack or edit that
            does not fit the model, or lacks a mark that a metric reads; for `scored_as` that does not fit the batches;
            for words of a batch that does not say them, or of a stack whose positions are not tokens.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    chosen = _chosen(metrics, stack, model.name)
    check_of(of)
    check_over(over, stack, model.name)
    edits = (edits,) if isinstance(edits, SiteEdit) else tuple(edits)
    scores, lengths = ScoreAccumulator(chosen), Lengths(model)
    total = len(inputs_of(model, stack, batch)) if isinstance(batch, Batch) else None
    label = f"measuring {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(total, label, resources.progress) as advance:
        for current, scored in _checked(model, stack, edits, scored_pairs(batch, scored_as)):
            words = Words.of(current) if over == "words" else None
            if words is not None:
                scored = words.batch(scored)
            B, T = stack.queries.of(scored).shape
            check_marks(chosen, scored.marks or {}, (B, T, stack.keys.count(scored)), stack.name)
            check_metrics(chosen, stack, scored)
            if words is None and not edits and all(map(is_own, chosen)):
                # A user's metric may read the shape of a pattern, and edits may have an axis of positions.
                current, scored = lengths.alike(current, scored, patterns=True)

            def add(
                examples: np.ndarray, scores_BLNC: np.ndarray, current: Batch = scored if words else current
            ) -> None:
                taken = current.take(examples)
                positions, clusters = stack.queries.of(taken), taken.cluster_labels
                if taken.segments is not None:
                    positions, scores_BLNC, clusters = separate(taken, positions, scores_BLNC)
                scores.add(positions, scores_BLNC, clusters)
                advance(len(examples))

            _score(resources, model, stack, (current, scored, edits), words, chosen, of, scores.examples, add)
    about = {"of": of, "over": over, "edits": _edit_words(edits), "scored_as_other_tokens": scored_as is not None}
    level, seed, squeeze = options.get("level", 0.95), options.get("seed", 0), isinstance(metrics, str | Metric)
    return scores.table(model, stack.name, about, level=level, seed=seed, squeeze=squeeze)


def _score(
    resources: Resources,
    model: Model,
    stack: Stack,
    inputs: Inputs,
    words: Words | None,
    metrics: tuple[Metric, ...],
    of: Of,
    first: int,
    add: Add,
) -> None:
    """Score all examples of one batch, and add the scores of each chunk; `first` is its first example's number."""
    batch, scored, edits = inputs
    E, T, S = len(batch), stack.queries.count(batch), stack.keys.count(batch)
    network, every, texts_EK = resources.network(model), np.arange(E), texts_of(batch)
    words_ET, example_bytes = None, score_bytes(metrics, stack.heads, T, S)
    if words is not None:
        words_ET, example_bytes = words.of_tokens, example_bytes + words.pattern_bytes(stack.heads)

    def compute(examples: np.ndarray) -> Array:
        taken = inputs if np.array_equal(examples, every) else _take(examples, inputs)
        given = (None if rows is None else resources.devices.examples(rows[examples]) for rows in (texts_EK, words_ET))
        # Two batches of equal shapes share a program, whatever is known of their words.
        taken = (taken[0].model_inputs, taken[1].without("words", "clusters", "labels"), taken[2])
        return program()(network, *_placed(resources.devices, taken), *given, stack.name, metrics, of)

    entries = [(metric.name, entry) for metric in metrics for entry in metric.best_of or (0,)]
    coordinates = {
        "layer": np.arange(stack.layers)[None, :, None, None],
        "head": np.arange(stack.heads)[None, None, :, None],
        "metric": np.array([name for name, _ in entries])[None, None, None, :],
        "entry": np.array([entry for _, entry in entries])[None, None, None, :],
    }
    if texts_EK is not None:
        coordinates = {name: np.expand_dims(index, 2) for name, index in coordinates.items()}
        coordinates["text"] = np.arange(texts_EK.shape[1])[None, None, :, None, None]
    run_examples(
        choose_chunks(resources, model, stack, batch, example_bytes=example_bytes),
        E,
        compute,
        add,
        resources=resources,
        journal=resources.journal("measure", model, batch, scored, edits, stack.name, of, metrics, first, words_ET),
        coordinates=coordinates,
        first=first,
    )


@cache
def program() -> Any:
    """Return the compiled measurement."""
    # The options keep the metrics from holding all their intermediates at once.
    return compiled(_scores, static_argnames=("stack", "metrics", "of"), compiler_options=lean_options())


def _scores(
    network: Network,
    batch: Batch,
    scored: Batch,
    edits: tuple[SiteEdit, ...],
    texts_BK: Array | None,
    words_BT: Array | None,
    stack: str,
    metrics: tuple[Metric, ...],
    of: Of,
) -> Array:
    """Return the scores of all metrics as `packed` has them, `[B,L,N,C]` (of texts: `[B,L,K,N,C]`).

    The unembedding is not computed.
    """
    reader = _reader(network.stack(stack), batch, scored, texts_BK, words_BT, metrics, of)
    return forward(network, batch, edits, {stack: reader})[1][stack].swapaxes(0, 1)


def _reader(
    stack: Stack,
    batch: Batch,
    scored: Batch,
    texts_BK: Array | None,
    words_BT: Array | None,
    metrics: tuple[Metric, ...],
    of: Of,
) -> RowReader:
    """Return the reader of each layer's scores."""
    examples, heads = counted(examples_of(stack, scored)), stack.heads
    if texts_BK is None or batch.segments is None:
        reader = RowScores(metrics, examples, heads)
    else:
        reader = TextScores(metrics, examples, heads, batch.segments, texts_BK)
    if words_BT is not None:
        reader = OverWords(reader, words_BT, (len(words_BT), heads, examples.mask.shape[1]))
    if of == "weights":
        return reader
    (B, _), S, sinks = examples.keys.shape, stack.keys.count(batch), stack.sinks is not None
    return OfNorms(reader, of, (B, heads, S), gram(stack), sinks)


def _chosen(metrics: str | Metric | Sequence[str | Metric] | None, stack: Stack, model: str) -> tuple[Metric, ...]:
    """Return the metrics asked for, or all that the stack's positions allow."""
    if metrics is None:
        return tuple(metric for metric in METRICS.values() if fits(metric, stack))
    chosen = resolve(metrics)
    if undefined := [metric.name for metric in chosen if not fits(metric, stack)]:
        kinds = f"{stack.queries.kind} look at {stack.keys.kind}"
        raise ValueError(f"{', '.join(undefined)}: not defined where, as in the {stack.name} of {model}, {kinds}")
    return chosen


def _take(examples: np.ndarray, inputs: Inputs) -> Inputs:
    """Return these examples of the batches, and of the edits that have an axis of examples."""
    batch, scored, edits = inputs
    return batch.take(examples), scored.take(examples), take_edits(edits, examples)


def _placed(devices: Devices, inputs: Inputs) -> Inputs:
    """Return the inputs on devices, split over them along their axis of examples."""
    batch, scored, edits = inputs
    return devices.examples(batch), devices.examples(scored), placed_edits(devices, edits)


def _checked(
    model: Model, stack: Stack, edits: Sequence[SiteEdit], pairs: Iterable[tuple[Batch, Batch]]
) -> Iterator[tuple[Batch, Batch]]:
    """Check each pair of batches, and yield the inputs of the stack's stream."""
    for batch, scored in pairs:
        model.check(batch, packed=True)
        model.check_runs(stack, batch)
        for edit in edits:
            check_edit(model, batch, edit)
        yield inputs_of(model, stack, batch), inputs_of(model, stack, scored)


def _edit_words(edits: Sequence[SiteEdit]) -> list[str]:
    return [f"{edit.operation} at {edit.stack}.{edit.site}" for edit in edits]
