"""Scores of every head's attention patterns, for any number of examples, in the memory of one layer.

Dimension key: E examples, B examples of a chunk, T positions, L layers, N heads, M metrics, O entries of a vector
metric.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

from ...models.inputs.batch import Batch
from ...models.model import Model, check_edit
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...progress import progress as show_progress
from ...statistics import check_level
from ...tables import HeadTable
from ..streams import Batches, scored_pairs
from .compiler_options import lean_options
from .example import examples_of
from .metric import Metric, Scored, evaluate, fits
from .registry import METRICS, resolve
from .score_accumulator import ScoreAccumulator
from .value_norms import Of, check_of, gram, pattern_read

PATTERN_BYTES = 256 * 2**20
"""Most bytes of one layer's patterns, `[B,N,T,T]` float32, that are computed at once."""


def measure(
    model: Model,
    batch: Batches,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    *,
    of: Of = "weights",
    stack: str | None = None,
    edits: Sequence[SiteEdit] | SiteEdit = (),
    scored_as: Batches | None = None,
    progress: bool = False,
    seed: int = 0,
    level: float = 0.95,
) -> HeadTable:
    """Measure the attention pattern of every head: one row a head, one column a metric.

    Each number is computed inside its layer: patterns are never kept, and memory grows neither with the layers nor with
    the number of examples, which run in chunks.

    Args:
        batch: one batch or any iterable of batches, which is read once; those of one shape compile once.
        metrics: names from `METRICS` or `VARIANTS`, or `Metric` values; when left out, all `METRICS` that the stack's
            positions allow.
        of: "norms" reads ‖α f(x)‖, each query's divided by their sum, in place of the weights α, in every metric;
            "raw_norms" does not divide (Kobayashi et al. 2020; see `jaxheads.measure.patterns.value_norms`).
        stack: whose heads; needed where the model has several stacks.
        edits: measure the edited model. An edit with an axis of examples needs a single batch.
        scored_as: batches whose tokens metrics read in place of those that the model reads, with the same masks. This
            is how shuffled text makes a null for `induction`: its own tokens hold no repeat to count.
        progress: show a progress bar.
        seed: of the bootstrap.
        level: of the intervals, over examples.

    Returns:
        For each metric its mean and interval; `positional_share` also has the integers `positional_offset`
        (key minus query). `.values` is `[M,L,N]`, `.per_example` `[M,E,L,N]`, or None beyond 2048 examples; a
        single name or value, not in a sequence, leaves out M. NaN where no query counts.
        `.provenance["nothing_to_measure"]` names the metrics that no example counted for, `["not_finite"]`
        is how many numbers were left out because the model overflowed.

    Raises:
        ValueError: for an unknown metric, none, one twice, or one that needs an order or ids that the positions lack
            (the previous token of cross-attention, or of an image); for no batch; for a batch, stack or edit that
            does not fit the model, or lacks a mark that a metric reads; for `scored_as` that does not fit the batches.
    """
    measured = model.stack(stack)
    chosen = _chosen(metrics, measured, model.name)
    check_level(level)
    check_of(of)
    edits, scores = (edits,) if isinstance(edits, SiteEdit) else tuple(edits), ScoreAccumulator(chosen)
    total = len(_read_by(model, measured, batch)) if isinstance(batch, Batch) else None
    label = f"measuring {measured.layers * measured.heads} heads of {model.name}"
    with show_progress(total, label, progress) as advance:
        for current, scored in _checked(model, measured, edits, scored_pairs(batch, scored_as)):
            _check_marks(measured, scored, chosen)
            for examples, values in _chunk_scores(model.network, measured, current, scored, edits, chosen, of):
                scores.add(measured.queries.of(current.take(examples)), values)
                advance(len(examples))
    about = {"of": of, "edits": _edit_words(edits), "scored_as_other_tokens": scored_as is not None}
    squeeze = isinstance(metrics, str | Metric)
    return scores.table(model, measured.name, about, level=level, seed=seed, squeeze=squeeze)


@cache
def program() -> Any:
    """Return the compiled measurement."""
    # The options keep the metrics from holding all their intermediates at once.
    return jax.jit(_scores, static_argnames=("stack", "metrics", "of"), compiler_options=lean_options())


def _scores(
    network: Network,
    batch: Batch,
    scored: Batch,
    edits: tuple[SiteEdit, ...],
    stack: str,
    metrics: tuple[Metric, ...],
    of: Of,
) -> dict[str, Scored]:
    """Return value and counts of every metric, `[L,B,N]` or `[L,B,N,O]`; the unembedding is not computed."""
    measured = network.stack(stack)
    examples = examples_of(measured, scored)
    grams = None if of == "weights" else gram(measured)
    reader = {stack: lambda sites: evaluate(metrics, pattern_read(of, sites, grams), examples)}
    return forward(network, batch, edits, reader)[1][stack]


def _chosen(metrics: str | Metric | Sequence[str | Metric] | None, stack: Stack, model: str) -> tuple[Metric, ...]:
    """Return the metrics asked for, or all that the stack's positions allow."""
    if metrics is None:
        return tuple(metric for metric in METRICS.values() if fits(metric, stack))
    chosen = resolve(metrics)
    if undefined := [metric.name for metric in chosen if not fits(metric, stack)]:
        kinds = f"{stack.queries.kind} look at {stack.keys.kind}"
        raise ValueError(f"{', '.join(undefined)}: not defined where, as in the {stack.name} of {model}, {kinds}")
    return chosen


def _chunk_scores(
    network: Network,
    stack: Stack,
    batch: Batch,
    scored: Batch,
    edits: tuple[SiteEdit, ...],
    metrics: tuple[Metric, ...],
    of: Of,
) -> Iterator[tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Yield the examples of each chunk, and their scores.

    Chunks have one size, so they compile once: the last repeats its last example.
    """
    B, T = stack.queries.of(batch).shape
    most = max(1, PATTERN_BYTES // (4 * stack.heads * T * stack.keys.count(batch)))
    chunks = -(-B // most)
    size = -(-B // chunks)
    for start in range(0, B, size):
        examples = np.arange(start, min(start + size, B))
        filled = np.minimum(np.arange(start, start + size), B - 1)
        inputs = (batch, scored, edits) if size == B else _take(filled, batch, scored, edits)
        scores = jax.tree.map(fetch, program()(network, *inputs, stack.name, metrics, of))
        count = len(examples)
        yield examples, {name: (value[:, :count], counts[:, :count]) for name, (value, counts) in scores.items()}


def _take(
    examples: np.ndarray, batch: Batch, scored: Batch, edits: tuple[SiteEdit, ...]
) -> tuple[Batch, Batch, tuple[SiteEdit, ...]]:
    """Return these examples of the batches, and of the edits that have an axis of examples."""

    def take(array: jax.Array) -> jax.Array:
        return array if array.shape[1] == 1 else array[:, examples]

    taken = tuple(replace(edit, weight=take(edit.weight), source=take(edit.source)) for edit in edits)
    return batch.take(examples), scored.take(examples), taken


def _checked(
    model: Model, stack: Stack, edits: Sequence[SiteEdit], pairs: Iterable[tuple[Batch, Batch]]
) -> Iterator[tuple[Batch, Batch]]:
    """Check each pair of batches, and yield the inputs of the stack's stream."""
    for batch, scored in pairs:
        model.check(batch)
        model.check_runs(stack, batch)
        for edit in edits:
            check_edit(model, batch, edit)
        yield _read_by(model, stack, batch), _read_by(model, stack, scored)


def _read_by(model: Model, stack: Stack, batch: Batch) -> Batch:
    """Return the inputs that the stack's stream reads: one of the two where streams read nothing of each other."""
    return batch.only(stack.queries.kind) if model.network.apart else batch


def _check_marks(stack: Stack, batch: Batch, metrics: tuple[Metric, ...]) -> None:
    """Raise ValueError unless the batch has all marks that the metrics read, for each position of the stack."""
    B, T = stack.queries.of(batch).shape
    S = stack.keys.count(batch)
    marks = batch.marks or {}
    for name in dict.fromkeys(name for metric in metrics for name in metric.marks):
        if name not in marks:
            raise ValueError(f"the batch has no mark {name!r}; it has {sorted(marks) or 'none'}: Batch(…, marks={{…}})")
        if marks[name].shape not in ((B, S), (B, T, S)):
            raise ValueError(
                f"the mark {name!r} must be {[B, S]} or {[B, T, S]} for the {stack.name}, got {marks[name].shape}"
            )


def _edit_words(edits: Sequence[SiteEdit]) -> list[str]:
    return [f"{edit.operation} at {edit.stack}.{edit.site}" for edit in edits]
