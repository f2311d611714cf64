"""The register of metrics by name: those measured by default, variants, and those that users add."""

import math
from collections.abc import Sequence

from ...arguments import checked
from ...checks import Named, nearest
from .detector import ROLES, head_detector
from .metric import ByRows, Metric
from .pattern_class import CLASSES, class_of, pattern_class
from .positions import (
    OFFSETS,
    confidence,
    distance,
    entropy,
    first_token,
    is_above,
    learnt_sink,
    next_token,
    positional_share,
    previous_token,
    self_token,
    sink,
)
from .tokens import duplicate_token, induction

SHARE, MAGNITUDE = (0.0, 1.0), (0.0, math.inf)
"""Ranges of metrics."""

METRICS: dict[str, Metric] = Named(
    "metrics",
    {
        function.__name__: Metric(function.__name__, ByRows(function), needs=needs, range=values, unit=unit)
        for function, needs, values, unit in (
            (entropy, "any", MAGNITUDE, "nats"),
            (confidence, "any", SHARE, ""),
            (distance, "places", MAGNITUDE, "tokens, or pixels of an image"),
            (previous_token, "order", SHARE, ""),
            (next_token, "order", SHARE, ""),
            (self_token, "places", SHARE, ""),
            (first_token, "any", SHARE, ""),
            (duplicate_token, "ids", SHARE, ""),
            (induction, "ids", SHARE, ""),
        )
    }
    | {
        "positional_share": Metric(
            "positional_share", ByRows(positional_share), (), OFFSETS, "positional_offset", "order", range=SHARE
        )
    },
)
"""The metrics that `measure` computes by default, by name."""

VARIANTS: dict[str, Metric] = Named(
    "metrics",
    {
        metric.name: metric
        for metric in (
            METRICS["entropy"].variant("entropy_smoothed", smoothing=1e-4),
            METRICS["confidence"].variant("confidence_without_last", without_last=True),
            METRICS["distance"].variant("distance_without_first", without_first=True),
            METRICS["induction"].variant("induction_literal", after=-1),
            Metric("sink", ByRows(sink, is_above), range=SHARE),
            Metric("learnt_sink", ByRows(learnt_sink), range=SHARE),
            Metric(
                "pattern_class",
                ByRows(pattern_class, class_of),
                (),
                tuple(range(len(CLASSES))),
                "pattern_class_index",
                "order",
                range=SHARE,
            ),
            *(
                head_detector(role, measure, exclude_bos)
                for role in ROLES
                for measure in ("mul", "abs")
                for exclude_bos in (False, True)
            ),
        )
    },
)
"""Metrics that are measured only by name: variants from particular papers, and those that users register."""


@checked()
def register(metric: Metric) -> Metric:
    """Add a metric to `VARIANTS`, so that it is measured by name in one pass with all others.

        jh.register(jh.Metric("second_token", lambda A, example: (A[:, 1].mean(), True), needs="order"))

    Its function is written for one head of one example (see `Metric`) and vmapped over the rest. By rows it takes
    memory in proportion to the length of a text, not to its square:

        second = jh.ByRows(lambda A, example: jh.patterns.mean_sums(A[:, 1], example.mask))
        jh.register(jh.Metric("second_token", second, needs="order"))

    Raises:
        ValueError: for a name that another metric has.
    """
    if metric.name in METRICS or VARIANTS.get(metric.name, metric) != metric:
        raise ValueError(f"the metric {metric.name!r} is there already; give yours another name")
    VARIANTS[metric.name] = metric
    return metric


@checked()
def resolve(metrics: str | Metric | Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Return metrics that are named, or passed as values.

    Raises:
        ValueError: for no metric, an unknown name (the message lists those that are known), or a name that comes twice.
    """
    names_or_values = (metrics,) if isinstance(metrics, str | Metric) else tuple(metrics)
    if not names_or_values:
        raise ValueError(f"metrics: expected at least one of {', '.join(METRICS)}; got none")
    resolved = tuple(entry if isinstance(entry, Metric) else _known(entry) for entry in names_or_values)
    names = [metric.name for metric in resolved]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"metrics: each name may come once, got {', '.join(twice)} twice; use Metric.variant")
    return resolved


def _known(name: str) -> Metric:
    known = METRICS | VARIANTS
    if name not in known:
        raise ValueError(f"metrics: {name!r} is not known; known are {', '.join(known)}{nearest(name, known)}")
    return known[name]
