"""A metric of attention along marked pairs of positions, for tasks whose examples mark them."""

import jax

from jaxheads.measure.patterns import Example, Metric, Scored, attention_to


def along(mark: str) -> Metric:
    """Return the metric `to_MARK`: mean attention to the marked keys, over the queries that have a marked key."""
    return Metric(f"to_{mark}", _attention_along, (("mark", mark),), marks=(mark,))


def _attention_along(pattern_TS: jax.Array, example: Example, mark: str) -> Scored:
    return attention_to(pattern_TS, example.mark(mark) > 0)
