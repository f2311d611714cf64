"""The head detector of TransformerLens under its own names: a pattern compared with the ideal one of a role.

Its scale is not that of the metrics of the papers: on [BOS, r, r] a perfect induction head scores T / (2T + 1), a
perfect previous-token head (n − 1) / n, unless BOS is left out.

Dimension key: T query positions, S key positions.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from ...arguments import checked
from .example import Example
from .metric import ByRows, Metric, Quotient, Scored, quotient


def _previous(example: Example) -> Array:
    return example.offsets == -1


def _duplicate(example: Example) -> Array:
    assert example.tokens is not None
    return (example.tokens[:, None] == example.key_tokens[None, :]) & (example.offsets < 0)


def _induction(example: Example) -> Array:
    """Return the keys after an earlier copy: the duplicates' matrix moved right by one, still below the diagonal."""
    assert example.tokens is not None
    before_S, exists_S = example.key_neighbours(-1)
    earlier = example.offsets - 1 < 0  # the copy is before the query
    same_TS = (example.tokens[:, None] == before_S[None, :]) & exists_S[None, :]
    return same_TS & earlier & (example.offsets <= 0)


ROLES: dict[str, Callable[[Example], Array]] = {
    "previous_token_head": _previous,
    "duplicate_token_head": _duplicate,
    "induction_head": _induction,
}
"""Functions that return a role's detection pattern, by TransformerLens's name of the role."""


def _detect(
    pattern_TS: Array, example: Example, role: str, measure: str, exclude_bos: bool, exclude_current_token: bool
) -> Quotient:
    counted_TS = example.pairs
    if exclude_bos:
        counted_TS = counted_TS & (example.key_positions > 0)[None, :]
    if exclude_current_token:
        counted_TS = counted_TS & (example.offsets != 0)
    detection_TS = ROLES[role](example).astype(jnp.float32)
    if measure == "mul":
        A_TS = jnp.where(counted_TS, pattern_TS, 0.0)
        return (A_TS * detection_TS).sum(), A_TS.sum()
    # Excluded pairs leave the difference, not the pattern: else the role's own excluded keys would count as missed.
    difference_TS = jnp.where(counted_TS, jnp.abs(pattern_TS - detection_TS), 0.0)
    return difference_TS.sum(), example.mask.sum(dtype=jnp.float32)


def _detected(sums: Quotient, example: Example, measure: str, **options: Any) -> Scored:
    value, counts = quotient(sums, example, **options)
    return value if measure == "mul" else jnp.where(counts, 1 - value, 0.0), counts


@checked()
def head_detector(
    role: str, measure: str = "mul", exclude_bos: bool = False, exclude_current_token: bool = False
) -> Metric:
    """Return the metric that `transformer_lens.head_detector.detect_head` computes, with its own arguments.

    "mul": Σ A · D / Σ A, with D the role's 0-or-1 pattern, from 0 to 1. "abs": 1 − Σ |A − D| / n; at most 1, and
    negative where D has several keys to a query. `exclude_bos` leaves the keys at the first position out of the sums,
    `exclude_current_token` the diagonal; n stays the number of tokens. TransformerLens rounds to three digits; this
    metric does not round.

    Raises:
        ValueError: for an unknown role or measure.
    """
    if role not in ROLES or measure not in ("mul", "abs"):
        raise ValueError(
            f"the detector has the roles {', '.join(ROLES)} and the measures mul and abs; got {role!r}, {measure!r}"
        )
    flags = {"exclude_bos": exclude_bos, "exclude_current_token": exclude_current_token}
    name = "_".join(["tl", role.removesuffix("_head"), measure, *[flag for flag, on in flags.items() if on]])
    options = (("role", role), ("measure", measure), *flags.items())
    needs = "order" if role == "previous_token_head" else "ids"
    return Metric(
        name, ByRows(_detect, _detected), options, needs=needs, range=(0.0 if measure == "mul" else -math.inf, 1.0)
    )
