"""Metrics by name."""

import difflib
from collections.abc import Sequence

from .classes import CLASSES, pattern_class
from .detector import ROLES, head_detector
from .metric import Metric
from .positions import (
    OFFSETS,
    confidence,
    distance,
    entropy,
    first_token,
    next_token,
    positional_share,
    previous_token,
    self_token,
    sink,
)
from .tokens import duplicate_token, induction

METRICS: dict[str, Metric] = {
    function.__name__: Metric(function.__name__, function, needs=needs)
    for function, needs in (
        (entropy, "any"),
        (confidence, "any"),
        (distance, "places"),
        (previous_token, "order"),
        (next_token, "order"),
        (self_token, "places"),
        (first_token, "any"),
        (duplicate_token, "ids"),
        (induction, "ids"),
    )
} | {"positional_share": Metric("positional_share", positional_share, (), OFFSETS, "positional_offset", "order")}
"""What is measured unless told otherwise, by name."""

VARIANTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        METRICS["entropy"].variant("entropy_smoothed", smoothing=1e-4),
        METRICS["confidence"].variant("confidence_without_last", without_last=True),
        METRICS["distance"].variant("distance_without_first", without_first=True),
        METRICS["induction"].variant("induction_literal", after=-1),
        Metric("sink", sink),
        Metric("pattern_class", pattern_class, (), tuple(range(len(CLASSES))), "pattern_class_index", "order"),
        *(
            head_detector(role, measure, exclude_bos)
            for role in ROLES
            for measure in ("mul", "abs")
            for exclude_bos in (False, True)
        ),
    )
}
"""What is measured where it is asked for by name: variants as particular papers have them, and what users register."""


def register(metric: Metric) -> Metric:
    """Make a metric known by its name, to be measured in the same pass as any others.

        jh.register(jh.Metric("second_token", lambda A, example: (A[:, 1].mean(), True), needs="order"))

    Its function is written for one head of one example (see `Metric`), and vmapped.

    Raises:
        ValueError: for a name that another metric has.
    """
    if metric.name in METRICS or VARIANTS.get(metric.name, metric) != metric:
        raise ValueError(f"the metric {metric.name!r} is there already; give yours another name")
    VARIANTS[metric.name] = metric
    return metric


def resolve(metrics: str | Metric | Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Metrics by name or by value.

    Raises:
        ValueError: for none, for a name that is not known (with those that are), or for one name twice.
    """
    given = (metrics,) if isinstance(metrics, str | Metric) else tuple(metrics)
    if not given:
        raise ValueError(f"metrics: expected at least one of {', '.join(METRICS)}; got none")
    found = tuple(one if isinstance(one, Metric) else _known(one) for one in given)
    names = [metric.name for metric in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"metrics: each name may come once, got {', '.join(twice)} twice; use Metric.variant")
    return found


def _known(name: str) -> Metric:
    known = METRICS | VARIANTS
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric {name!r} is not known; known are {', '.join(known)}{hint}")
    return known[name]
