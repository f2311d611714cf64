"""Metrics: named functions of one head's pattern, vmapped once over heads and examples.

Dimension key: B batch, T query positions, t query positions of some rows, S key positions, N query heads, P = B N
patterns, O entries of a vector metric, C entries of all metrics, one metric after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import among, checked
from ...checks import shown
from ...models.inputs.batch import Batch
from ...models.stack import Stack
from .example import NEEDS, Example, counted, examples_of, rows_of

Scored = tuple[Array, Array]
"""A metric's value for one head and one example, and whether it counts."""

Quotient = tuple[Array, Array]
"""Two sums over query rows, of which a metric's value is the first divided by the second."""


def quotient(sums: Quotient, example: Example, **options: Any) -> Scored:
    """Return the first sum divided by the second, and whether the second is above 0."""
    del example, options
    total, weight = sums
    return total / jnp.where(weight > 0, weight, 1.0), weight > 0


@checked()
@dataclass(frozen=True)
class ByRows:
    """A metric's function that reads a pattern some query rows at a time, so that long patterns are never whole.

        ByRows(lambda A_tS, example: mean_sums(A_tS[:, 0], example.mask))

    Called with a whole pattern, it returns the value and counts of a single block of rows.

    Attributes:
        rows: `(pattern_tS, example, **options)` to sums over these rows, a pytree of arrays whose shapes do not depend
            on t. Sums of all blocks of rows are added. `example` is that of the rows (see `Example`); filler rows are
            masked there, as padding is.
        finish: `(sums, example, **options)` of the whole example to value and counts; when left out, the first of two
            sums divided by the second.
    """

    rows: Callable[..., Any]
    finish: Callable[..., tuple[Any, Any]] = field(default_factory=lambda: quotient)

    def __call__(self, pattern_TS: Array, example: Example, **options: Any) -> tuple[Any, Any]:
        return self.finish(self.rows(pattern_TS, example, **options), example, **options)


def _is_range(name: str, value: tuple[float, float] | None) -> None:
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"{name} must be the least and the largest value, got {value}")


@checked(needs=among(NEEDS), range=_is_range)
@dataclass(frozen=True)
class Metric:
    """A named number of one head's pattern. Equal by value and hashable, so that equal metrics trace once.

    Attributes:
        name: the column of the table.
        needs: one of NEEDS.
        function: `(pattern_TS, example, **options)` to value and counts, scalars, or `[O]` with `best_of`. A plain
            function reads the whole pattern, whose memory grows with the square of the length; a `ByRows` does not.
        options: of the function, as (name, value) pairs.
        marks: names of the batch's marks that it reads.
        range: the least and largest value, which no interval leaves; not known when left out. A share of attention has
            0 to 1, and where its values are 0 and 1 alone, Wilson's interval.
        best_of: labels of a vector's O entries. For each head the table holds the entry with the largest mean over
            examples (of equal ones that with the label nearest to 0), and its label as an integer column `label`.
        unit: of the values, which pictures name; a share has none.
    """

    name: str
    function: Callable[..., tuple[Any, Any]]
    options: tuple[tuple[str, Any], ...] = ()
    best_of: tuple[int, ...] = ()
    label: str = ""
    needs: str = "any"
    marks: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    unit: str = ""

    @property
    def by_rows(self) -> bool:
        """Whether the function reads some query rows at a time, so that it never needs the whole pattern."""
        return isinstance(self.function, ByRows)

    def __call__(self, pattern_TS: Array, example: Example) -> Scored:
        return score(self, row_sums(self, pattern_TS, example), example)

    @checked()
    def variant(self, name: str, **options: Any) -> "Metric":
        """Return this metric with other options, under another name."""
        merged = {**dict(self.options), **options}
        return replace(self, name=name, options=tuple(sorted(merged.items())))


def row_sums(metric: Metric, pattern_tS: Array, example: Example) -> Any:
    """Return a metric's sums over some query rows; the pattern itself for one that is not `by_rows`."""
    pattern_tS = pattern_tS.astype(jnp.float32)
    if not isinstance(metric.function, ByRows):
        return pattern_tS
    return metric.function.rows(pattern_tS, example, **dict(metric.options))


def score(metric: Metric, sums: Any, example: Example) -> Scored:
    """Return a metric's value and counts of its sums over all rows; `example` is the whole one."""
    finish = metric.function.finish if isinstance(metric.function, ByRows) else metric.function
    value, counts = finish(sums, example, **dict(metric.options))
    return jnp.asarray(value, jnp.float32), jnp.asarray(counts, bool)


@checked()
def evaluate(metrics: Sequence[Metric], pattern_BNTS: Array, examples: Example) -> dict[str, Scored]:
    """Return each metric's value and counts for one layer's heads, `[B,N]`, or `[B,N,O]` with `best_of`.

    Args:
        examples: with a leading axis of the batch.
    """
    sums = {metric.name: head_sums(metric, pattern_BNTS, counted(examples)) for metric in metrics}
    heads = pattern_BNTS.shape[1]
    return {metric.name: head_scores(metric, sums[metric.name], examples, heads) for metric in metrics}


def head_sums(metric: Metric, pattern_BNtS: Array, examples: Example) -> Any:
    """Return a metric's sums over some query rows of one layer's heads, each with a leading axis P = B N.

    Args:
        examples: of these rows, as `rows_of` gives them.
    """
    # Heads of all examples on one axis: on CPU an axis of one example makes some reductions 40 times slower.
    B, N = pattern_BNtS.shape[:2]
    return jax.vmap(partial(row_sums, metric))(
        pattern_BNtS.reshape(B * N, *pattern_BNtS.shape[2:]), _repeated(examples, N)
    )


def head_scores(metric: Metric, sums_P: Any, examples: Example, heads: int) -> Scored:
    """Return a metric's value and counts, `[B,N]` or `[B,N,O]`, of `head_sums` of all rows."""
    # What only a function of whole patterns reads is computed as it always was, of the example alone.
    examples = counted(examples) if metric.by_rows else examples._replace(whole=None)
    value, counts = jax.vmap(partial(score, metric))(sums_P, _repeated(examples, heads))
    return value.reshape(-1, heads, *value.shape[1:]), counts.reshape(-1, heads, *counts.shape[1:])


def _repeated(examples: Example, heads: int) -> Example:
    return jax.tree.map(lambda field: jnp.repeat(field, heads, axis=0), examples)


def check_metrics(metrics: Sequence[Metric], stack: Stack, batch: Batch) -> None:
    """Check that a user's metrics give a number, or one for each of `best_of`; shapes alone are computed.

    Raises:
        ValueError: for a function that fails on one head's pattern, or returns something else; names the metric.
    """
    example = jax.eval_shape(lambda batch: jax.tree.map(lambda field: field[0], examples_of(stack, batch)), batch)
    check_functions(metrics, (stack.queries.count(batch), stack.keys.count(batch)), example)


def is_own(metric: Metric) -> bool:
    """Whether a metric is one of jaxheads, not a user's."""
    function = metric.function.rows if isinstance(metric.function, ByRows) else metric.function
    return getattr(function, "__module__", "").startswith("jaxheads.")


def check_functions(metrics: Sequence[Metric], size: tuple[int, int], example: Any) -> None:
    """Check a user's metrics on a pattern of this shape and an example of shapes alone; see `check_metrics`."""
    for metric in metrics:
        if is_own(metric):
            continue
        shape = (len(metric.best_of),) if metric.best_of else ()
        about = (
            f"metric {metric.name!r}: its function must return {'numbers' if shape else 'a number'} {list(shape)}, and "
            "whether it counts, a boolean of that shape"
        )
        try:
            if metric.by_rows:
                _check_rows(metric, size[1], example)
            pattern_TS = jax.ShapeDtypeStruct(size, jnp.float32)
            result = jax.eval_shape(partial(metric.function, **dict(metric.options)), pattern_TS, example)
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"{about}; on a pattern it raised {type(error).__name__}: {error}") from error
        parts: list[Any] = list(result) if isinstance(result, tuple) else [result]
        if [getattr(part, "shape", None) for part in parts] != [shape, shape] or not (
            parts[0].dtype.kind in "biuf" and parts[1].dtype.kind in "biu"
        ):
            raise ValueError(f"{about}; it returned {' and '.join(map(shown, parts))}")


def _check_rows(metric: Metric, S: int, example: Any) -> None:
    """Raise ValueError unless a metric's sums over few rows and over more rows have the same shapes."""

    def sums(count: int) -> Any:
        def of_rows(pattern_tS: Array, example: Example) -> Any:
            rows = rows_of(counted(jax.tree.map(lambda field: field[None], example)), 0, count)
            return row_sums(metric, pattern_tS, jax.tree.map(lambda field: field[0], rows))

        try:
            return jax.eval_shape(of_rows, jax.ShapeDtypeStruct((count, S), jnp.float32), example)
        except Exception as error:
            raise ValueError(f"with {count} rows of {len(example.mask)}: {error}") from error

    few, more = sums(2), sums(3)
    if few != more:
        raise ValueError(f"its sums must have one shape for any number of rows; of 2 and 3 rows they are {few}, {more}")


def check_marks(metrics: Sequence[Metric], marks: Mapping[str, Array], shape: tuple[int, int, int], where: str) -> None:
    """Raise ValueError unless there are all marks that the metrics read, for each position of B examples, T and S."""
    B, T, S = shape
    for name in dict.fromkeys(name for metric in metrics for name in metric.marks):
        if name not in marks:
            raise ValueError(f"the batch has no mark {name!r}; it has {sorted(marks) or 'none'}: Batch(…, marks={{…}})")
        if marks[name].shape not in ((B, S), (B, T, S)):
            raise ValueError(
                f"the mark {name!r} must be {[B, S]} or {[B, T, S]} for the {where}, got {marks[name].shape}"
            )


def packed(scores: Mapping[str, Scored]) -> Array:
    """Return scores of one layer in one array, float32 `[B,N,C]`: NaN where a score does not count, ∞ if not finite."""
    arrays = []
    for value, counts in scores.values():
        array = jnp.where(counts, jnp.where(jnp.isfinite(value), value, jnp.inf), jnp.nan)
        arrays.append(array if array.ndim == 3 else array[..., None])
    return jnp.concatenate(arrays, axis=-1)


@checked()
def fits(metric: Metric, stack: Stack) -> bool:
    """Whether a stack's positions have the properties that the metric needs."""
    return fits_positions(metric, stack.queries.kind, cross=stack.is_cross)


def fits_positions(metric: Metric, kind: str, *, cross: bool) -> bool:
    """Whether positions of a kind, in self-attention or cross-attention, have the properties that the metric needs."""
    has = {"tokens": "ids", "targets": "ids", "frames": "order", "patches": "places"}[kind]
    return NEEDS.index(metric.needs) <= NEEDS.index("any" if cross else has)


@checked()
def mean_sums(values_T: Array, counts_T: Array) -> Quotient:
    """Return the sum of the values that count, and their number: over all queries the two sums of a mean."""
    return jnp.where(counts_T, values_T, 0.0).sum(), counts_T.sum(dtype=jnp.float32)


@checked()
def attention_sums(pattern_TS: Array, target_TS: Array) -> Quotient:
    """Return the sum of attention to the targets and the number of queries that have one, the two sums of a mean."""
    return mean_sums(jnp.where(target_TS, pattern_TS, 0.0).sum(axis=1), target_TS.any(axis=1))


@checked()
def mean(values_T: Array, counts_T: Array) -> Scored:
    """Return the mean of the values that count, and whether any does."""
    total, number = mean_sums(values_T, counts_T)
    return total / jnp.maximum(number, 1.0), number > 0


@checked()
def attention_to(pattern_TS: Array, target_TS: Array) -> Scored:
    """Return the mean attention to the targets, over the queries that have a target."""
    return mean(jnp.where(target_TS, pattern_TS, 0.0).sum(axis=1), target_TS.any(axis=1))
