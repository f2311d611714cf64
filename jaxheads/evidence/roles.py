"""Naming heads: a head has a role if its score beats a null, on examples that neither was chosen on.

Dimension key: E examples (E1 to choose on, E2 to confirm on), L layers, N heads, R roles.

Beating is asked twice. *Surely*: a one-sided paired test against the null's best head, with the number of
heads and roles tried taken into account (Benjamini & Hochberg 1995 over all of them). *Clearly*: the
chance-corrected score (score − null) / (1 − null) is at least `least`. Neither is enough alone. With enough
examples the smallest difference is sure, and of two random models one always has the better best head; with
few examples a clear difference may be luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..statistics import Interval, bootstrap_mean, false_discovery, paired_p_values, split_halves
from ..tables import Column, HeadTable

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for one role: a score of every head, and the same score where there is nothing to find.

    Args:
        role: the name a head earns: "induction".
        scores: `[E,L,N]`, from 0 to 1; NaN where an example says nothing.
        null: the same of the null's heads on the same examples, `[E,L,N]`.
        null_kind: what the null is: "random weights", "shuffled text".
        stack: whose heads these are.

    Raises:
        ValueError: for another rank, shapes that differ, or numbers outside 0..1.
    """

    role: str
    scores: ArrayLike
    null: ArrayLike
    null_kind: str
    stack: str = "decoder"

    def __post_init__(self) -> None:
        for name in ("scores", "null"):
            numbers = np.array(getattr(self, name), dtype=np.float64)
            if numbers.ndim != 3 or 0 in numbers.shape:
                raise ValueError(f"{name} of {self.role!r}: expected [examples, layers, heads], got {numbers.shape}")
            known = numbers[~np.isnan(numbers)]
            if known.size and not (known.min() >= -1e-4 and known.max() <= 1 + 1e-4):
                raise ValueError(
                    f"{name} of {self.role!r}: expected numbers from 0 to 1, got {known.min():.4g} to "
                    f"{known.max():.4g}; a share of attention can earn a role, an entropy or a distance can't"
                )
            object.__setattr__(self, name, numbers)
        if np.shape(self.scores) != np.shape(self.null):
            raise ValueError(
                f"null of {self.role!r}: expected the shape of the scores {np.shape(self.scores)} (the same "
                f"examples and as many heads), got {np.shape(self.null)}"
            )

    @classmethod
    def from_tables(
        cls,
        scores: HeadTable,
        null: HeadTable,
        null_kind: str,
        *,
        metric: str | None = None,
        role: str | None = None,
    ) -> "Evidence":
        """From two measured tables with their examples: `metric` (the first unless told) earns `role`."""
        name = scores.metrics[0] if metric is None else metric
        parts = []
        for table in (scores, null):
            if table.per_example is None or name not in table.metrics:
                raise ValueError(
                    f"{table.name}: expected {name!r} with its examples kept, got {', '.join(table.metrics)}"
                )
            each = table.per_example
            parts.append(each[table.metrics.index(name)] if each.ndim == len(table.shape) + 2 else each)
        return cls(name if role is None else role, parts[0], parts[1], null_kind, scores.stack)


class _Tried(NamedTuple):
    """One role tried on all heads: `[L,N]` each, but for the null, a number."""

    chosen_by: Floats
    score: Interval
    null: float
    null_head: tuple[int, int]
    corrected: Floats
    p_values: Floats


def name_heads(
    evidence: Sequence[Evidence],
    *,
    level: float = 0.05,
    least: float = 0.2,
    seed: int = 0,
    confidence: float = 0.95,
    yielding: Sequence[str] = (),
) -> HeadTable:
    """The role of every head that earned one, with the numbers that earned it.

    Examples are split in halves by `seed`. The first half chooses: for each role the null's best head, the
    hardest to beat, and for a head that earns several roles which of them is its own. The second half alone
    is tested, and gives every number in the table.

    Args:
        evidence: one for each role. Roles may have examples of their own; heads are the same.
        level: the share of false roles that is put up with, among all that are given.
        least: the chance-corrected score that a role needs.
        seed: of the split and the bootstrap; `confidence` is the level of the score's interval.
        yielding: roles that are a head's own only where it earned no other; looking at the first token is what many
            heads do when they have nothing else to do (the null attention of Vig & Belinkov 2019).

    Returns:
        One row a head: `score score_low score_high null chance_corrected q_value` of its `role`, and all the `roles`
        it earned ("" and NaN where none). `.provenance` has what was tried, the nulls, and every role's null head.

    Raises:
        ValueError: for no or double evidence, heads that differ, fewer than 4 examples, or options out of range.
    """
    _check(evidence, level, least)
    tried = [_try(one, seed, confidence) for one in evidence]
    q_RLN = false_discovery(np.stack([one.p_values for one in tried]))
    corrected_RLN = np.stack([one.corrected for one in tried])
    earned_RLN = (q_RLN <= level) & (corrected_RLN >= least)
    chosen_RLN = np.where(earned_RLN, _strength(tried, [one.role in yielding for one in evidence]), -np.inf)
    role_LN, any_LN = np.argmax(chosen_RLN, axis=0), earned_RLN.any(axis=0)

    def of_role(numbers: Sequence[ArrayLike]) -> Floats:
        stacked_RLN = np.stack([np.broadcast_to(one, any_LN.shape) for one in numbers])
        return np.where(any_LN, np.take_along_axis(stacked_RLN, role_LN[None], axis=0)[0], np.nan)

    names = np.array([one.role for one in evidence], dtype=object)
    score = Column(*(of_role([getattr(one.score, part) for one in tried]) for part in Interval._fields))
    extras: dict[str, Any] = {
        "role": np.where(any_LN, names[role_LN], ""),
        "roles": _joined(names, earned_RLN, chosen_RLN),
        "null": of_role([one.null for one in tried]),
        "chance_corrected": of_role(list(corrected_RLN)),
        "q_value": of_role(list(q_RLN)),
    }
    about = {
        "tried": {"heads": any_LN.size, "roles": len(tried), "tests": int((~np.isnan(q_RLN)).sum())},
        "nulls": _nulls(evidence, tried),
        "examples": {one.role: np.shape(one.scores)[0] for one in evidence},
        "level": level,
        "least": least,
        "seed": seed,
    }
    return HeadTable.from_columns("roles", evidence[0].stack, {"score": score}, about, squeeze=True, extras=extras)


def _strength(tried: Sequence[_Tried], behind_R: Sequence[bool]) -> Floats:
    """What a head's roles are ordered by, `[R,L,N]`: those that yield come behind all others."""
    return np.stack(
        [np.nan_to_num(one.chosen_by, nan=-1e6) - 1e9 * behind for one, behind in zip(tried, behind_R, strict=True)]
    )


def _try(evidence: Evidence, seed: int, confidence: float) -> _Tried:
    scores_ELN, null_ELN = np.asarray(evidence.scores), np.asarray(evidence.null)
    choose, confirm = split_halves(len(scores_ELN), seed)
    hardest_LN = _means(null_ELN[choose])
    if np.isnan(hardest_LN).all():
        raise ValueError(f"null of {evidence.role!r}: no example of the half that chooses says anything; add examples")
    layer, head = np.unravel_index(np.nanargmax(hardest_LN), hardest_LN.shape)
    null_E2 = null_ELN[confirm][:, layer, head]
    null_E2LN = np.broadcast_to(null_E2[:, None, None], scores_ELN[confirm].shape)
    null = float(_means(null_E2))
    score = bootstrap_mean(scores_ELN[confirm], level=confidence, seed=seed)
    return _Tried(
        chosen_by=_corrected(_means(scores_ELN[choose]), float(hardest_LN[layer, head])),
        score=score,
        null=null,
        null_head=(int(layer), int(head)),
        corrected=_corrected(score.mean, null),
        p_values=paired_p_values(scores_ELN[confirm], null_E2LN),
    )


def _corrected(score_LN: Floats, null: float) -> Floats:
    """The share reached of what the null left open: 0 is the null, 1 perfect; NaN if the null is perfect."""
    return (score_LN - null) / (1 - null) if null < 1 else np.full_like(score_LN, np.nan)


def _means(values: Floats) -> Floats:
    """Mean over examples that say something; NaN where none does."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _joined(names: NDArray[Any], earned_RLN: NDArray[np.bool_], chosen_RLN: Floats) -> NDArray[Any]:
    """All roles of each head, the strongest first."""
    joined = np.empty(earned_RLN.shape[1:], dtype=object)
    for where in np.ndindex(joined.shape):
        order = np.argsort(-chosen_RLN[(slice(None), *where)], kind="stable")
        joined[where] = ", ".join(str(names[r]) for r in order if earned_RLN[(r, *where)])
    return joined


def _nulls(evidence: Sequence[Evidence], tried: Sequence[_Tried]) -> dict[str, Any]:
    """For the provenance: what each role had to beat."""
    return {
        one.role: {
            "kind": one.null_kind,
            "head": list(result.null_head),
            "score": None if np.isnan(result.null) else result.null,
        }
        for one, result in zip(evidence, tried, strict=True)
    }


def _check(evidence: Sequence[Evidence], level: float, least: float) -> None:
    if not evidence:
        raise ValueError("evidence: expected at least one role, got none")
    roles = [one.role for one in evidence]
    if len(set(roles)) < len(roles):
        raise ValueError(f"evidence: each role may come once, got {roles}")
    heads = {(one.stack, np.shape(one.scores)[1:]) for one in evidence}
    if len(heads) > 1:
        raise ValueError(f"evidence: expected the same heads for every role, got {sorted(map(str, heads))}")
    if not 0 < level < 1 or not 0 <= least <= 1:
        raise ValueError(f"level must lie between 0 and 1 and least in 0..1, got {level} and {least}")
