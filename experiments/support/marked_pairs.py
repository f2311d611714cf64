"""A metric of attention along marked pairs of positions, for tasks whose examples mark them."""

import jax

from jaxheads.measure.patterns import ByRows, Example, Metric, Quotient, attention_sums


def along(mark: str) -> Metric:
    """Return the metric `to_MARK`: mean attention to the marked keys, over the queries that have a marked key."""
    return Metric(f"to_{mark}", ByRows(_attention_along), (("mark", mark),), marks=(mark,))


def _attention_along(pattern_TS: jax.Array, example: Example, mark: str) -> Quotient:
    return attention_sums(pattern_TS, example.mark(mark) > 0)
