"""Roles of heads: a head has a role if its score beats a null, on examples that chose neither of the two.

Dimension key: D draws of the null, E examples (E1 to choose on, E2 to confirm on), L layers, N heads, R roles.

A score must beat the null in two ways. *Surely*: a one-sided paired test against the best head of a draw of the null,
corrected for the number of heads and roles tried (Benjamini & Hochberg 1995 over all of them). *Clearly*: the
chance-corrected score (score − null) / (1 − null) is at least `least`. Neither is enough alone. With enough examples
the smallest difference is sure; with few examples a clear difference may be luck.

Draws of a null differ: of two random models one has the better best head. With several draws the test knows by how
much. With s² the variance of the best heads of draws, a difference has the error √(e² + s² (1 + 1/D)), e that of the
paired examples, and Satterthwaite's degrees of freedom: the rate of false roles then holds for new draws, too. With one
draw it holds for that draw alone, and provenance says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from ..statistics import Interval, false_discovery, mean_interval, paired_p_values, rows_of, split_halves
from ..statistics.base import Floats
from ..tables import Column, HeadTable
from .power import Spread, power_at
from .selection import example_means, warn_of_repeats

POWER_AT = (0.3, 0.5, 0.8)
"""Chance-corrected scores at which provenance gives the power."""


@checked()
@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of every head for one role, and the scores of a null in which nothing has that role.

    Args:
        role: the name a head earns: "induction".
        scores: `[E,L,N]`, from 0 to 1; NaN for an example without a score.
        null: scores of the null's heads on the same examples, `[E,L,N]`, or of several draws of the null (models of
            other random weights, other shuffles), `[draws,E,L,N]`.
        null_kind: what the null is: "random weights", "shuffled text".
        stack: whose heads these are.
        clusters: labels `[E]` of examples that depend on each other; a cluster is chosen by or confirmed on as a whole.
        ratio: whether rows are those of a ratio of sums, whose mean is the share (`jh.relations`): a row may then be
            below 0 or above 1, a head's mean may not.

    Raises:
        ValueError: for another rank, shapes that differ, numbers outside 0..1, or labels that don't fit.
    """

    role: str
    scores: ArrayLike
    null: ArrayLike
    null_kind: str
    stack: str = "decoder"
    clusters: ArrayLike | None = None
    ratio: bool = False

    def __post_init__(self) -> None:
        scores, null = (np.array(values, dtype=np.float64) for values in (self.scores, self.null))
        for name, values, ranks in (("scores", scores, (3,)), ("null", null, (3, 4))):
            if values.ndim not in ranks or 0 in values.shape:
                raise ValueError(
                    f"{name} of {self.role!r}: expected [examples, layers, heads]"
                    f"{', or draws of them' if name == 'null' else ''}, got {values.shape}"
                )
            shares = example_means(np.moveaxis(values, -3, 0)) if self.ratio else values
            known = shares[~np.isnan(shares)]
            if known.size and not (known.min() >= -1e-4 and known.max() <= 1 + 1e-4):
                raise ValueError(
                    f"{name} of {self.role!r}: expected numbers from 0 to 1, got {known.min():.4g} to "
                    f"{known.max():.4g}; a share of attention can earn a role, an entropy or a distance can't"
                )
            object.__setattr__(self, name, values)
        if scores.shape != null.shape[-3:]:
            raise ValueError(
                f"null of {self.role!r}: expected the shape of the scores {scores.shape} (the same examples and as "
                f"many heads), or draws of that shape, got {null.shape}"
            )
        if self.clusters is not None and np.shape(self.clusters) != (len(scores),):
            raise ValueError(
                f"clusters of {self.role!r}: expected a label for each of {len(scores)} examples, got shape "
                f"{np.shape(self.clusters)}"
            )

    @property
    def draws(self) -> Floats:
        """The draws of the null, `[D,E,L,N]`."""
        null = np.asarray(self.null)
        return null if null.ndim == 4 else null[None]

    @classmethod
    @checked()
    def from_tables(
        cls,
        scores: HeadTable,
        null: HeadTable | Sequence[HeadTable],
        null_kind: str,
        *,
        metric: str | None = None,
        role: str | None = None,
    ) -> "Evidence":
        """Return the evidence of measured tables with their examples, and with the clusters of the first.

        Args:
            null: the table of the null, or one of each of its draws.
            metric: the column to read; the first when left out.
            role: the name it earns; the metric's when left out.

        Raises:
            ValueError: for a table without that column, or without examples.
        """
        name = scores.metrics[0] if metric is None else metric
        columns = []
        for table in (scores, *([null] if isinstance(null, HeadTable) else null)):
            if table.per_example is None or name not in table.metrics:
                raise ValueError(
                    f"metric: expected {name!r} with its examples kept, {table.name} has {', '.join(table.metrics)}"
                )
            values = table.per_example
            columns.append(values[table.metrics.index(name)] if values.ndim == len(table.shape) + 2 else values)
        own, *draws = columns
        drawn = draws[0] if isinstance(null, HeadTable) else np.stack(draws)
        return cls(name if role is None else role, own, drawn, null_kind, scores.stack, scores.clusters)


class _Trial(NamedTuple):
    """The test of all heads for one role: `[L,N]` each, but for the null: the mean over draws, and their spread."""

    chosen_by: Floats
    score: Interval
    null: float
    null_heads: list[tuple[int, int]]
    corrected: Floats
    p_values: Floats
    spread: Spread


@checked()
def name_heads(
    evidence: Sequence[Evidence],
    *,
    level: float = 0.05,
    least: float = 0.2,
    seed: int = 0,
    confidence: float = 0.95,
    yielding: Sequence[str] = (),
    clusters: ArrayLike | None = None,
    mixed: float | None = None,
) -> HeadTable:
    """Return the role of every head that earned a role, with the numbers that earned it.

    Examples are split in halves by `seed`. The first half chooses: for each role the null's best head, the
    hardest to beat, and for a head that earns several roles which of them is its own. The second half alone
    is tested, and gives every number in the table.

    Args:
        evidence: one entry for each role. Roles may have examples of their own; heads are the same.
        level: the accepted rate of false roles among all roles that are earned.
        least: the chance-corrected score that a role needs.
        seed: of the split; `confidence` is the level of the score's interval.
        yielding: roles that are a head's own only where it earned no other; looking at the first token is what many
            heads do when they have nothing else to do (the null attention of Vig & Belinkov 2019).
        clusters: labels `[E]` of examples that depend on each other, for evidence that brings none.
        mixed: name a head "mixed" if it earned two roles or more and the second is at least this share as strong as the
            first, by the chance-corrected scores of the half that chooses; its numbers stay those of the strongest.

    Returns:
        One row a head: `score score_low score_high score_n null chance_corrected q_value` of its `role`, and all the
        `roles` it earned, the strongest first ("" and NaN where none). `jobs` is their number without those that yield:
        a head with more than one is polysemous, as far as these roles can tell. `.provenance` has what was tried; the
        nulls with their heads and the spread of their draws; under "power", for chance-corrected scores of .3, .5 and
        .8, the probability that a head of that score is given the role with these examples; and "conditional_on", what
        the rate of false roles is of.

    Raises:
        ValueError: for no or double evidence, heads that differ, fewer than 4 examples (or clusters), or options out
            of range.

    Warns:
        UserWarning: where examples repeat and no clusters are known.
    """
    _check(evidence, level, least, mixed)
    if clusters is not None:
        evidence = [entry if entry.clusters is not None else replace(entry, clusters=clusters) for entry in evidence]
    trials = [_try(entry, seed, confidence) for entry in evidence]
    q_RLN = false_discovery(np.stack([trial.p_values for trial in trials]))
    corrected_RLN = np.stack([trial.corrected for trial in trials])
    earned_RLN = (q_RLN <= level) & (corrected_RLN >= least)
    strength_RLN = np.where(earned_RLN, _strength(trials, [entry.role in yielding for entry in evidence]), -np.inf)
    role_LN, any_LN = np.argmax(strength_RLN, axis=0), earned_RLN.any(axis=0)
    jobs_LN = earned_RLN[[entry.role not in yielding for entry in evidence]].sum(axis=0)
    mixed_LN = _mixed(strength_RLN, jobs_LN, mixed)

    def of_role(values: Sequence[ArrayLike]) -> Floats:
        values_RLN = np.stack([np.broadcast_to(value, any_LN.shape) for value in values])
        return np.where(any_LN, np.take_along_axis(values_RLN, role_LN[None], axis=0)[0], np.nan)

    names = np.array([entry.role for entry in evidence], dtype=object)
    score = Column(*(of_role([getattr(trial.score, field) for trial in trials]) for field in Interval._fields))
    extras: dict[str, Any] = {
        "role": np.where(mixed_LN, "mixed", np.where(any_LN, names[role_LN], "")),
        "roles": _joined(names, earned_RLN, strength_RLN),
        "jobs": jobs_LN,
        "null": of_role([trial.null for trial in trials]),
        "chance_corrected": of_role(list(corrected_RLN)),
        "q_value": of_role(list(q_RLN)),
    }
    about = {
        "tried": {"heads": any_LN.size, "roles": len(trials), "tests": int((~np.isnan(q_RLN)).sum())},
        "nulls": _null_words(evidence, trials),
        "examples": {entry.role: np.shape(entry.scores)[0] for entry in evidence},
        "conditional_on": _condition(evidence),
        "power": _power(evidence, trials, earned_RLN, level, least),
        "level": level,
        "least": least,
        "mixed": mixed,
        "seed": seed,
    }
    return HeadTable.from_columns("roles", evidence[0].stack, {"score": score}, about, squeeze=True, extras=extras)


def _strength(trials: Sequence[_Trial], yields_R: Sequence[bool]) -> Floats:
    """Return the numbers that order a head's roles, `[R,L,N]`: roles that yield come behind all others."""
    return np.stack(
        [
            np.nan_to_num(trial.chosen_by, nan=-1e6) - 1e9 * yields
            for trial, yields in zip(trials, yields_R, strict=True)
        ]
    )


def _mixed(strength_RLN: Floats, jobs_LN: NDArray[Any], share: float | None) -> NDArray[np.bool_]:
    """Return which heads have a second role of at least this share of the first's strength, `[L,N]`."""
    if share is None or len(strength_RLN) < 2:
        return np.zeros(jobs_LN.shape, bool)
    second_LN, first_LN = np.sort(strength_RLN, axis=0)[-2:]
    return (jobs_LN > 1) & (second_LN >= share * first_LN)


def _try(evidence: Evidence, seed: int, confidence: float) -> _Trial:
    scores_ELN, null_DELN = np.asarray(evidence.scores), evidence.draws
    labels = None if evidence.clusters is None else np.asarray(evidence.clusters)
    if labels is None:
        warn_of_repeats(scores_ELN, f"evidence of {evidence.role!r}")
    choose, confirm = split_halves(len(scores_ELN), seed, labels)
    confirming = None if labels is None else labels[confirm]
    chosen = [_best(draw_ELN[choose], evidence.role) for draw_ELN in null_DELN]
    null_DE2 = np.stack([draw_ELN[confirm][:, *head] for draw_ELN, head in zip(null_DELN, chosen, strict=True)])
    null_E2, null_D = example_means(null_DE2), example_means(null_DE2.T)
    null_E2LN = np.broadcast_to(null_E2[:, None, None], scores_ELN[confirm].shape)
    chosen_by = [example_means(draw_ELN[choose])[head] for draw_ELN, head in zip(null_DELN, chosen, strict=True)]
    null = float(example_means(null_E2))
    spread = Spread.of(rows_of(scores_ELN[confirm] - null_E2LN, clusters=confirming), null_D)
    paired_LN = paired_p_values(scores_ELN[confirm], null_E2LN, clusters=confirming)
    score = share_interval(scores_ELN[confirm], clusters=confirming, level=confidence)
    return _Trial(
        chosen_by=_corrected(example_means(scores_ELN[choose]), float(np.mean(chosen_by))),
        score=score,
        null=null,
        null_heads=chosen,
        corrected=_corrected(score.mean, null),
        p_values=np.fmax(paired_LN, spread.p_values()),
        spread=spread,
    )


def share_interval(rows_ELN: ArrayLike, *, clusters: ArrayLike | None, level: float = 0.95) -> Interval:
    """Return the mean score of each head with its interval within 0 to 1, also of a ratio, whose rows may leave it."""
    rows = np.asarray(rows_ELN, np.float64)
    # Rows that count once each may be outside: their mean is not.
    is_outside = bool(((rows < 0) | (rows > 1)).any())
    counts = np.ones(len(rows)) if is_outside else None
    return mean_interval(rows, counts=counts, clusters=clusters, within=(0, 1), level=level)


def _best(null_ELN: Floats, role: str) -> tuple[int, int]:
    """Return the layer and head of the largest mean; raises ValueError where there is none."""
    mean_LN = example_means(null_ELN)
    if np.isnan(mean_LN).all():
        raise ValueError(f"null of {role!r}: all examples of the half that chooses are NaN; add examples")
    layer, head = np.unravel_index(np.nanargmax(mean_LN), mean_LN.shape)
    return int(layer), int(head)


def _corrected(score_LN: Floats, null: float) -> Floats:
    """Return the chance-corrected score: 0 is the null, 1 perfect; NaN if the null is perfect."""
    return (score_LN - null) / (1 - null) if null < 1 else np.full_like(score_LN, np.nan)


def _joined(names: NDArray[Any], earned_RLN: NDArray[np.bool_], strength_RLN: Floats) -> NDArray[Any]:
    """Return the names of all roles of each head, the strongest first, `[L,N]`."""
    joined = np.empty(earned_RLN.shape[1:], dtype=object)
    for head in np.ndindex(joined.shape):
        order = np.argsort(-strength_RLN[(slice(None), *head)], kind="stable")
        joined[head] = ", ".join(str(names[role]) for role in order if earned_RLN[(role, *head)])
    return joined


def _null_words(evidence: Sequence[Evidence], trials: Sequence[_Trial]) -> dict[str, Any]:
    """Return the null of each role for the provenance."""
    return {
        entry.role: {
            "kind": entry.null_kind,
            "draws": len(entry.draws),
            "heads": [list(head) for head in trial.null_heads],
            "score": _number(trial.null),
            "spread": _number(trial.spread.between),
        }
        for entry, trial in zip(evidence, trials, strict=True)
    }


def _condition(evidence: Sequence[Evidence]) -> dict[str, str]:
    """Return what the rate of false roles is conditional on, in words."""
    return {
        entry.role: f"the one draw of {entry.null_kind}: heads that beat it may not beat another"
        if len(entry.draws) == 1
        else f"nothing but draws of {entry.null_kind} that are normal about their mean, of which it had "
        f"{len(entry.draws)}"
        for entry in evidence
    }


def _power(
    evidence: Sequence[Evidence], trials: Sequence[_Trial], earned_RLN: NDArray[np.bool_], level: float, least: float
) -> dict[str, dict[str, float | None]]:
    """Return by role, for the chance-corrected scores of POWER_AT, the probability of earning the role."""
    tests = sum(int((~np.isnan(trial.p_values)).sum()) for trial in trials)
    # What one more head would have to reach, beside those that were found.
    threshold = level * min(1.0, (int(earned_RLN.sum()) + 1) / max(1, tests))
    return {
        entry.role: {
            f"{score:g}": _number(power_at(score * (1 - trial.null), least * (1 - trial.null), threshold, trial.spread))
            for score in POWER_AT
        }
        for entry, trial in zip(evidence, trials, strict=True)
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _check(evidence: Sequence[Evidence], level: float, least: float, mixed: float | None) -> None:
    if not evidence:
        raise ValueError("evidence: expected at least one role, got none")
    roles = [entry.role for entry in evidence]
    if len(set(roles)) < len(roles):
        raise ValueError(f"evidence: each role may come once, got {roles}")
    heads = {(entry.stack, np.shape(entry.scores)[1:]) for entry in evidence}
    if len(heads) > 1:
        raise ValueError(f"evidence: expected the same heads for every role, got {sorted(map(str, heads))}")
    if not 0 < level < 1 or not 0 <= least <= 1:
        raise ValueError(f"level must lie between 0 and 1 and least in 0..1, got {level} and {least}")
    if mixed is not None and not 0 < mixed <= 1:
        raise ValueError(f"mixed must be a share of a head's strongest role, above 0 and up to 1; got {mixed}")
    if mixed is not None and "mixed" in roles:
        raise ValueError("evidence: 'mixed' is the name of heads with several roles; give this role another name")
