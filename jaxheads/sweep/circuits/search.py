"""Circuits found by a greedy search: what can be taken away one by one without the objective suffering.

Conmy et al. 2023 (arXiv 2304.14997), algorithm 1, and the authors' code, `TLACDCExperiment.step`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...progress import Advance
from ...progress import progress as show_progress
from ...tables import HeadTable
from .columns import finite_mean
from .components import Kind, Parts
from .evaluate import Ablated, Keeper

LONGEST = 64
"""Removals that are tried ahead, in the hope that none of them will be taken back."""


@dataclass(frozen=True, eq=False, repr=False)
class FoundCircuits:
    """What a search left, for each threshold.

    Attributes:
        kept: bool `[thresholds, *grid]`; each is a circuit for `circuit`.
        table: one row a threshold; `faithfulness`, `unfaithfulness` and `circuit` as in `Circuit.faithfulness`, on the
            examples that were searched; extras `threshold` and `size`.
    """

    kept: np.ndarray
    table: HeadTable

    def __repr__(self) -> str:
        return f"<FoundCircuits>\n{self.table.frame.to_string()}"


def search_circuits(
    model: Model,
    batch: Batch,
    objective: Objective,
    thresholds: Sequence[float],
    parts: Kind = "edges",
    ablation: str = "patching",
    *,
    better: str = "higher",
    absolute: bool = False,
    backwards: bool = True,
    stack: str | None = None,
    level: float = 0.95,
    progress: bool = False,
    resume: Any = None,
    **options: Any,
) -> FoundCircuits:
    """Start from the whole model and take parts away as long as the objective loses less than a threshold (ACDC).

    Receivers are visited from the logits back to the first layer's inputs, in the reverse of `Graph.receivers`, and of
    each the edges into it; heads from the last layer back. A part is taken away, for good, if the objective's mean
    then loses less than the threshold, compared with what is left without it: whatever changes nothing goes at any
    threshold above 0. Edges into a node that no kept edge leaves are taken away unasked, since nobody hears it. What is
    found depends on the order, also among the edges of one receiver, and on the examples.

    The search is exact: every decision is made on circuits that were run. Several are run at once, those of all
    thresholds and those of the next decisions should nothing be kept; what was tried in vain is dropped.

    Args:
        thresholds: in units of the objective; each gives a circuit.
        parts: "edges" or "heads".
        ablation: what is not kept becomes; "patching" from `reference=`, as in the paper.
        better: "higher" if losing is to become lower (a logit difference), "lower" if to become higher (a loss).
        absolute: keep what changes the objective either way by the threshold or more (the authors' option).
        backwards: take the edges into one receiver from the latest sender to the earliest (heads of one layer, from
            the last to the first); else the other way round.
        resume: a directory: circuits that were run are written there, and a search that was stopped goes on.
        options: others of `circuit`: reference, per_position, groups, donors, seed, memory, devices.

    Raises:
        ValueError: for no threshold or one that is not finite, and as `circuit`.
    """
    limits = np.asarray(thresholds, np.float64)
    if limits.ndim != 1 or not len(limits) or not np.isfinite(limits).all():
        raise ValueError(f"thresholds must be at least one finite number, got {thresholds!r}")
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be higher or lower; got {better!r}")
    made_of, ablated = Parts.of(model, model.stack(stack), parts), Ablated(ablation, **options)
    keeper = Keeper.of(model, batch, objective, made_of, ablated, level=level, progress=progress, resume=resume)
    rules = _Rules(_Heard.of(made_of), _order(made_of, backwards), 1.0 if better == "lower" else -1.0, absolute)
    found = _search(keeper, rules, limits.tolist())
    ways = {"better": better, "absolute": absolute, "backwards": backwards}
    return FoundCircuits(made_of.grid(np.stack([walk.kept for walk in found]), False), _table(keeper, found, ways))


@dataclass(frozen=True)
class _Walk:
    """One threshold's search so far.

    Attributes:
        kept: `[P]`.
        values: the objective of that, `[E]`.
        next: how many parts have been decided on.
        ahead: how many removals to try at once.
    """

    threshold: float
    kept: np.ndarray
    values: np.ndarray
    next: int
    ahead: int


@dataclass(frozen=True)
class _Rules:
    """What a search goes by: who is heard, the order, and when a change is a loss (sign +1: when higher)."""

    heard: "_Heard"
    order: np.ndarray
    sign: float
    absolute: bool

    def tries(self, walk: _Walk) -> tuple[list[int], list[np.ndarray], int, np.ndarray]:
        """The next removals, none taken back: where in the order each is, and what it leaves; then where the walk is
        after them and after what no one hears, and what that leaves."""
        kept, places, left, place = walk.kept.copy(), [], [], walk.next
        while place < len(self.order):
            part = self.order[place]
            asked = self.heard.into(kept, part)
            if asked and len(places) == walk.ahead:
                break
            kept[part] = False
            if asked:
                places.append(place)
                left.append(kept.copy())
            place += 1
        return places, left, place, kept

    def decided(self, walk: _Walk, tried: tuple[Any, ...], values_GE: np.ndarray) -> _Walk:
        """The walk after what was tried, up to the first part that has to stay."""
        places, left, end, kept = tried
        current_E = walk.values
        for place, kept_P, after_E in zip(places, left, values_GE, strict=True):
            loss = self.sign * float(finite_mean(after_E - current_E))
            if not (abs(loss) if self.absolute else loss) < walk.threshold:
                kept_P[self.order[place]] = True
                return replace(walk, kept=kept_P, values=current_E, next=place + 1, ahead=1)
            current_E = after_E
        return replace(walk, kept=kept, values=current_E, next=end, ahead=min(LONGEST, 2 * walk.ahead))


def _search(keeper: Keeper, rules: _Rules, thresholds: Sequence[float]) -> list[_Walk]:
    """Every threshold's walk, to its end."""
    whole_P = np.ones(len(keeper.parts), bool)
    _, everything_E, _ = keeper.with_ends(whole_P[None])
    walks = [_Walk(threshold, whole_P, everything_E, 0, 1) for threshold in thresholds]
    with show_progress(len(walks) * len(whole_P), f"taking away {keeper.parts.kind}", keeper.progress) as advance:
        while any(walk.next < len(whole_P) for walk in walks):
            walks = _further(walks, rules, keeper, advance)
    return walks


def _table(keeper: Keeper, found: Sequence[_Walk], ways: dict[str, Any]) -> HeadTable:
    nothing_E, everything_E, _ = keeper.with_ends(np.empty((0, len(keeper.parts)), bool))
    values_ET = np.stack([walk.values for walk in found], axis=1)
    values = {
        "faithfulness": values_ET - nothing_E[:, None],
        "unfaithfulness": everything_E[:, None] - values_ET,
        "circuit": values_ET,
    }
    sizes = {"threshold": [walk.threshold for walk in found], "size": [int(walk.kept.sum()) for walk in found]}
    return keeper.table(
        "search_circuits", values, ("step",), magnitudes=("unfaithfulness",), share=True, about=ways, extras=sizes
    )


def _further(walks: Sequence[_Walk], rules: _Rules, keeper: Keeper, advance: Advance) -> list[_Walk]:
    """Every walk as far as what is run at once decides."""
    tried = [rules.tries(walk) for walk in walks]
    masks = [mask for _, left, _, _ in tried for mask in left]
    found = iter(keeper.values(np.stack(masks)) if masks else ())
    after = []
    for walk, one in zip(walks, tried, strict=True):
        values = np.array([next(found) for _ in one[0]])
        after.append(rules.decided(walk, one, values))
        advance(after[-1].next - walk.next)
    return after


@dataclass(frozen=True)
class _Heard:
    """Who is still heard.

    Attributes:
        leaving: for each part, those that have to be kept, one at least, for it to reach anyone; None where it always
            does.
    """

    leaving: Sequence[np.ndarray | None]

    @classmethod
    def of(cls, parts: Parts) -> "_Heard":
        """Edges into a node need an edge that leaves it; heads, and edges into the logits, need none."""
        graph = parts.graph
        if graph is None:
            return cls([None] * len(parts))
        sender_P, receiver_P = parts.places.T
        leaving_V = [np.flatnonzero(np.isin(sender_P, senders)) for senders in graph.fed()]
        into_V = [*leaving_V, None]
        return cls([into_V[v] for v in receiver_P])

    def into(self, kept_P: np.ndarray, part: int) -> bool:
        """Whether this part would be heard, if these are kept."""
        leaving = self.leaving[part]
        return leaving is None or bool(kept_P[leaving].any())


def _order(parts: Parts, backwards: bool) -> np.ndarray:
    """The parts in the order they are visited in, `[P]`."""
    one, other = parts.places.T
    later, within = (one, other) if parts.graph is None else (other, one)
    return np.lexsort((-within if backwards else within, -later))
