"""Metrics: named functions of one head's pattern, vmapped once over heads and examples.

Dimension key: B batch, T query positions, S key positions, N query heads, P = B N patterns, O entries of a vector
metric, C entries of all metrics, one metric after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import among, checked
from ...checks import shown
from ...models.inputs.batch import Batch
from ...models.stack import Stack
from .example import NEEDS, Example, examples_of

Scored = tuple[Array, Array]
"""A metric's value for one head and one example, and whether it counts."""


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
        function: `(pattern_TS, example, **options)` to value and counts, scalars, or `[O]` with `best_of`.
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

    def __call__(self, pattern_TS: Array, example: Example) -> Scored:
        value, counts = self.function(pattern_TS.astype(jnp.float32), example, **dict(self.options))
        return jnp.asarray(value, jnp.float32), jnp.asarray(counts, bool)

    @checked()
    def variant(self, name: str, **options: Any) -> "Metric":
        """Return this metric with other options, under another name."""
        merged = {**dict(self.options), **options}
        return replace(self, name=name, options=tuple(sorted(merged.items())))


@checked()
def evaluate(metrics: Sequence[Metric], pattern_BNTS: Array, examples: Example) -> dict[str, Scored]:
    """Return each metric's value and counts for one layer's heads, `[B,N]`, or `[B,N,O]` with `best_of`.

    Args:
        examples: with a leading axis of the batch.
    """

    # Heads of all examples on one axis: on CPU an axis of one example makes some reductions 40 times slower.
    B, N = pattern_BNTS.shape[:2]
    pattern_PTS = pattern_BNTS.reshape(B * N, *pattern_BNTS.shape[2:])
    examples_P = jax.tree.map(lambda field: jnp.repeat(field, N, axis=0), examples)

    def score(metric: Metric) -> Scored:
        value, counts = jax.vmap(metric)(pattern_PTS, examples_P)
        return value.reshape(B, N, *value.shape[1:]), counts.reshape(B, N, *counts.shape[1:])

    return {metric.name: score(metric) for metric in metrics}


def check_metrics(metrics: Sequence[Metric], stack: Stack, batch: Batch) -> None:
    """Check that a user's metrics give a number, or one for each of `best_of`; shapes alone are computed.

    Raises:
        ValueError: for a function that fails on one head's pattern, or returns something else; names the metric.
    """
    example = jax.eval_shape(lambda batch: jax.tree.map(lambda field: field[0], examples_of(stack, batch)), batch)
    check_functions(metrics, (stack.queries.count(batch), stack.keys.count(batch)), example)


def is_own(metric: Metric) -> bool:
    """Whether a metric is one of jaxheads, not a user's."""
    return getattr(metric.function, "__module__", "").startswith("jaxheads.")


def check_functions(metrics: Sequence[Metric], size: tuple[int, int], example: Any) -> None:
    """Check a user's metrics on a pattern of this shape and an example of shapes alone; see `check_metrics`."""
    pattern_TS = jax.ShapeDtypeStruct(size, jnp.float32)
    for metric in metrics:
        if is_own(metric):
            continue
        shape = (len(metric.best_of),) if metric.best_of else ()
        about = (
            f"metric {metric.name!r}: its function must return {'numbers' if shape else 'a number'} {list(shape)}, and "
            "whether it counts, a boolean of that shape"
        )
        try:
            result = jax.eval_shape(partial(metric.function, **dict(metric.options)), pattern_TS, example)
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"{about}; on a pattern it raised {type(error).__name__}: {error}") from error
        parts: list[Any] = list(result) if isinstance(result, tuple) else [result]
        if [getattr(part, "shape", None) for part in parts] != [shape, shape] or not (
            parts[0].dtype.kind in "biuf" and parts[1].dtype.kind in "biu"
        ):
            raise ValueError(f"{about}; it returned {' and '.join(map(shown, parts))}")


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
def mean(values_T: Array, counts_T: Array) -> Scored:
    """Return the mean of the values that count, and whether any does."""
    number = counts_T.sum(dtype=jnp.float32)
    return jnp.where(counts_T, values_T, 0.0).sum() / jnp.maximum(number, 1.0), number > 0


@checked()
def attention_to(pattern_TS: Array, target_TS: Array) -> Scored:
    """Return the mean attention to the targets, over the queries that have a target."""
    return mean(jnp.where(target_TS, pattern_TS, 0.0).sum(axis=1), target_TS.any(axis=1))
