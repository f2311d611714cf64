"""Measuring every head of a model on any number of examples, in the memory of one layer.

Dimension key: E examples, B examples of one batch, T positions, L layers, N heads, O entries of a vector
metric.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

from ...models.inputs.axes import Positions
from ...models.inputs.batch import Batch
from ...models.model import Model, check_edit
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...progress import progress as show_progress
from ...provenance import environment
from ...statistics import GroupedRows, check_level
from ...tables import Column, HeadTable
from . import METRICS, Metric, Scored, evaluate, examples_of, fits, resolve
from .compiler_options import lean_options
from .value_norms import Of, check_of, gram, reading

PATTERN_BYTES = 256 * 2**20
"""One layer's patterns, `[B,N,T,T]` float32, of so many bytes at once; more examples go through in turn."""

Batches = Batch | Iterable[Batch]


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
    """What every head's attention pattern looks like, one row a head.

    Each number is computed inside its layer: patterns are never kept, and memory grows neither with the
    layers nor with the batches, which go through in pieces (`PATTERN_BYTES`).

    Args:
        batch: one batch or any iterable of batches, which is read once; those of one shape compile once.
        metrics: names from `METRICS` or `VARIANTS`, or `Metric` values; when left out, all `METRICS` that the stack's
            positions allow.
        of: "norms" reads ‖α f(x)‖, each query's divided by their sum, in place of the weights α, in every metric;
            "raw_norms" does not divide (Kobayashi et al. 2020; see `jaxheads.measure.patterns.value_norms`).
        stack: whose heads; needed where the model has several stacks.
        edits: measure the edited model. An edit with an axis of examples needs a single batch.
        scored_as: tokens to score by in place of those the model sees, batch by batch, with the same masks.
            This is how shuffled text makes a null for `induction`: its own tokens hold no repeat to count.
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
        ValueError: for an unknown metric, none, one twice, or one that asks of positions what they have not (the
            previous token of cross-attention, or of an image); for no batch; for a batch, stack or edit that
            does not fit the model, or lacks a mark that a metric reads; for `scored_as` that does not fit the batches.
    """
    part = model.stack(stack)
    chosen = _chosen(metrics, part, model.name)
    check_level(level)
    check_of(of)
    edits, tally = (edits,) if isinstance(edits, SiteEdit) else tuple(edits), _Tally(chosen)
    total = len(_own(model, part, batch)) if isinstance(batch, Batch) else None
    with show_progress(total, f"measuring {part.layers * part.heads} heads of {model.name}", progress) as advance:
        for one, scored in _checked(model, part, edits, _pairs(batch, scored_as)):
            _check_marks(part, scored, chosen)
            for rows, kept in _in_pieces(model.network, part, one, scored, edits, chosen, of):
                tally.add(part.queries.of(one.take(rows)), kept)
                advance(len(rows))
    about = {"of": of, "edits": _named(edits), "scored_as_other_tokens": scored_as is not None}
    about |= {"model": model.name, "weights": model.identity()}
    return tally.table(part.name, about, level=level, seed=seed, squeeze=isinstance(metrics, str | Metric))


def _named(edits: Sequence[SiteEdit]) -> list[str]:
    return [f"{edit.operation} at {edit.stack}.{edit.site}" for edit in edits]


class _Tally:
    """The host's side: what was measured so far, in bounded memory."""

    def __init__(self, metrics: tuple[Metric, ...]):
        self.metrics = metrics
        self.rows = {metric.name: GroupedRows() for metric in metrics}
        self.tokens = 0
        self.not_finite = 0
        self.digest = hashlib.sha256()

    def add(self, side: Positions, kept: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        for name, (value_LB, counts_LB) in kept.items():
            finite_LB = np.isfinite(value_LB)
            self.not_finite += int((counts_LB & ~finite_LB).sum())
            self.rows[name].add(np.moveaxis(np.where(counts_LB & finite_LB, value_LB, np.nan), 1, 0))
        ids = np.zeros(side.shape, int) if side.ids is None else np.asarray(side.ids)
        for tokens, mask in zip(ids, np.asarray(side.mask), strict=True):
            self.tokens += int(mask.sum())
            self.digest.update(np.int64(mask.sum()).tobytes() + tokens[mask].astype("<i4").tobytes())

    def table(self, stack: str, about: dict[str, Any], *, level: float, seed: int, squeeze: bool) -> HeadTable:
        columns, extras = self._columns(level, seed)
        provenance = {
            **about,
            "stack": stack,
            "metrics": {metric.name: dict(metric.options) for metric in self.metrics},
            "examples": next(iter(self.rows.values())).examples,
            "tokens": self.tokens,
            "tokens_sha256": self.digest.hexdigest(),
            "nothing_to_measure": [name for name, rows in self.rows.items() if np.isnan(rows.mean()).all()],
            "not_finite": self.not_finite,
            "level": level,
            "seed": seed,
            **environment(),
        }
        return HeadTable.from_columns("measure", stack, columns, provenance, squeeze=squeeze, extras=extras)

    def _columns(self, level: float, seed: int) -> tuple[dict[str, Column], dict[str, np.ndarray]]:
        columns: dict[str, Column] = {}
        extras: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            rows = self.rows[metric.name]
            (mean, low, high), each = rows.interval(level=level, seed=seed), rows.per_example
            if metric.best_of:
                best_LN = _best(mean, metric.best_of)
                mean, low, high = (_pick(field, best_LN) for field in (mean, low, high))
                each = None if each is None else _pick(each, best_LN)
                extras[metric.label] = np.asarray(metric.best_of)[best_LN]
            columns[metric.name] = Column(mean, low, high, each)
        return columns, extras


def _best(mean_LNO: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Index of the largest entry of each head, `[L,N]`; of those equal up to float32, the one nearest to 0."""
    order_O = np.argsort(np.abs(labels), kind="stable")
    return order_O[np.argmax(np.nan_to_num(mean_LNO, nan=-np.inf).round(6)[..., order_O], axis=-1)]


def _pick(values: np.ndarray, best_LN: np.ndarray) -> np.ndarray:
    """From `[…,L,N,O]` each head's own entry, `[…,L,N]`."""
    index = best_LN.reshape(*[1] * (values.ndim - 3), *best_LN.shape, 1)
    return np.take_along_axis(values, index, axis=-1)[..., 0]


@cache
def program() -> Any:
    """The compiled measurement; compiled so that the metrics do not all hold their intermediates at once."""
    return jax.jit(_measured, static_argnames=("stack", "metrics", "of"), compiler_options=lean_options())


def _measured(
    network: Network,
    batch: Batch,
    scored: Batch,
    edits: tuple[SiteEdit, ...],
    stack: str,
    metrics: tuple[Metric, ...],
    of: Of,
) -> dict[str, Scored]:
    """Value and counts of every metric, `[L,B,N]` or `[L,B,N,O]`; the unembedding is not computed."""
    [part] = [one for one in network.stacks if one.name == stack]
    examples = examples_of(part, scored)
    grams = None if of == "weights" else gram(part)
    reader = {stack: lambda seen: evaluate(metrics, reading(of, seen, grams), examples)}
    return forward(network, batch, edits, reader)[1][stack]


def _chosen(metrics: str | Metric | Sequence[str | Metric] | None, stack: Stack, model: str) -> tuple[Metric, ...]:
    """Those that were asked for; or all that the stack's positions allow."""
    if metrics is None:
        return tuple(metric for metric in METRICS.values() if fits(metric, stack))
    chosen = resolve(metrics)
    if lost := [metric.name for metric in chosen if not fits(metric, stack)]:
        seen = f"{stack.queries.kind} look at {stack.keys.kind}"
        raise ValueError(f"{', '.join(lost)}: not defined where, as in the {stack.name} of {model}, {seen}")
    return chosen


def _in_pieces(
    network: Network,
    stack: Stack,
    batch: Batch,
    scored: Batch,
    edits: tuple[SiteEdit, ...],
    metrics: tuple[Metric, ...],
    of: Of,
) -> Iterator[tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """The examples of each piece, and what was measured of them.

    Pieces have one size, so they compile once: the last is filled up with its last example over and over.
    """
    B, T = stack.queries.of(batch).shape
    most = max(1, PATTERN_BYTES // (4 * stack.heads * T * stack.keys.count(batch)))
    pieces = -(-B // most)
    size = -(-B // pieces)
    for start in range(0, B, size):
        rows = np.arange(start, min(start + size, B))
        filled = np.minimum(np.arange(start, start + size), B - 1)
        given = (batch, scored, edits) if size == B else _take(filled, batch, scored, edits)
        kept = jax.tree.map(fetch, program()(network, *given, stack.name, metrics, of))
        yield (
            rows,
            {name: (value[:, : len(rows)], counts[:, : len(rows)]) for name, (value, counts) in kept.items()},
        )


def _take(
    rows: np.ndarray, batch: Batch, scored: Batch, edits: tuple[SiteEdit, ...]
) -> tuple[Batch, Batch, tuple[SiteEdit, ...]]:
    """These examples alone, of the batches and of the edits that have an axis of examples."""

    def part(array: jax.Array) -> jax.Array:
        return array if array.shape[1] == 1 else array[:, rows]

    own = tuple(replace(edit, weight=part(edit.weight), source=part(edit.source)) for edit in edits)
    return batch.take(rows), scored.take(rows), own


def _pairs(batch: Batches, scored_as: Batches | None) -> Iterator[tuple[Batch, Batch]]:
    """Each batch with the one it is scored by."""
    number = 0
    others = None if scored_as is None else iter(several(scored_as, "scored_as"))
    for one in several(batch, "batch"):
        scored = one if others is None else next(others, None)
        if scored is None or (others is not None and not np.array_equal(np.asarray(one.mask), np.asarray(scored.mask))):
            raise ValueError(
                f"scored_as: expected a batch for every batch, with the same mask; number {number} differs"
            )
        number += 1
        yield one, scored
    if not number:
        raise ValueError("batch: expected at least one batch; the iterable gave none (a generator can be read once)")
    if others is not None and next(others, None) is not None:
        raise ValueError(f"scored_as: expected {number} batches like the batches measured; got more")


def several(batches: Batches, name: str) -> Iterator[Batch]:
    """One batch, or each of several; raises ValueError, naming the argument, for what is none."""
    for one in (batches,) if isinstance(batches, Batch) else batches:
        if not isinstance(one, Batch):
            raise ValueError(f"{name}: expected a Batch or an iterable of them, got a {type(one).__name__}")
        yield one


def _checked(
    model: Model, stack: Stack, edits: Sequence[SiteEdit], pairs: Iterable[tuple[Batch, Batch]]
) -> Iterator[tuple[Batch, Batch]]:
    """The same batches, checked, and of each what the stack's stream reads."""
    for batch, scored in pairs:
        model.check(batch)
        model.check_runs(stack, batch)
        for edit in edits:
            check_edit(model, batch, edit)
        yield _own(model, stack, batch), _own(model, stack, scored)


def _own(model: Model, stack: Stack, batch: Batch) -> Batch:
    return batch.only(stack.queries.kind) if model.network.apart else batch


def _check_marks(stack: Stack, batch: Batch, metrics: tuple[Metric, ...]) -> None:
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
