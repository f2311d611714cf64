"""Circuits found by a greedy search: components that can be taken away one by one while the objective stays.

Conmy et al. 2023 (arXiv 2304.14997), algorithm 1, and the authors' code, `TLACDCExperiment.step`.

Dimension key: E examples of the batch, P components (heads or edges), G circuits that are run together, T thresholds,
U senders, V receivers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.resources import Options, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...progress import Advance
from ...progress import progress as show_progress
from ...tables import HeadTable
from .components import Components, Kind
from .derived_tables import finite_mean
from .evaluate import CircuitEvaluator
from .kept_runs import Ablation

MOST_AHEAD = 64
"""The most removals that are run before it is known whether the first of them stands."""


@dataclass(frozen=True, eq=False, repr=False)
class FoundCircuits:
    """The circuit that a search left, for each threshold.

    Attributes:
        kept: bool `[thresholds, *grid]`; each is a circuit for `circuit`.
        table: one row a threshold; `faithfulness`, `unfaithfulness` and `circuit` as in `Circuit.faithfulness`, on the
            half of the examples that was not searched; extras `threshold`, `size`, and `optimism`, by how much the
            faithfulness is higher on the half that was. With fewer than 4 examples, or clusters, both are all
            examples, and `provenance["held_out"]` is False.
    """

    kept: np.ndarray
    table: HeadTable

    def __repr__(self) -> str:
        return f"<FoundCircuits>\n{self.table.frame.to_string()}"


@shares_options(copies=True)
@checked(donors=at_least(1))
def search_circuits(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    thresholds: Sequence[float],
    parts: Kind = "edges",
    ablation: str = "patching",
    *,
    better: str = "higher",
    absolute: bool = False,
    backwards: bool = True,
    reference: Batch | Texts | None = None,
    per_position: bool | None = None,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    **options: Unpack[Options],
) -> FoundCircuits:
    """Start from the whole model and take components away while the objective loses less than a threshold (ACDC).

    Receivers are visited from the logits back to the first layer's inputs, in the reverse of `Graph.receivers`, and of
    each the edges into it; heads from the last layer back. A component is taken away, for good, if the objective's mean
    then loses less than the threshold, compared with the circuit before: a component that changes nothing goes at any
    threshold above 0. Edges into a node that no kept edge leaves go without a run, since nothing reads their node. The
    circuit depends on the order, also among the edges of one receiver, and on the examples.

    Decisions are made on one half of the examples, chosen by `seed`; whole clusters where there are any.

    The search is exact: every decision is made on circuits that were run. Several are run at once, those of all
    thresholds and those of the next decisions should nothing be kept; those tried in vain are dropped.

    Args:
        thresholds: in units of the objective; each gives a circuit.
        parts: "edges" or "heads".
        ablation: what is not kept becomes; "patching" from `reference`, as in the paper.
        better: "higher" if losing is to become lower (a logit difference), "lower" if to become higher (a loss).
        absolute: keep what changes the objective either way by the threshold or more (the authors' option).
        backwards: take the edges into one receiver from the latest sender to the earliest (heads of one layer, from
            the last to the first); else the other way round.
        reference, per_position, groups, reference_groups, donors: as in `circuit`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for no threshold or one that is not finite, and as `circuit`.
    """
    limits = np.asarray(thresholds, np.float64)
    if limits.ndim != 1 or not len(limits) or not np.isfinite(limits).all():
        raise ValueError(f"thresholds must be at least one finite number, got {thresholds!r}")
    one_of("better", better, ("higher", "lower"))
    components = Components.of(model, model.stack(options.get("stack")), parts)
    seed = options.get("seed", 0)
    rest = Ablation(ablation, reference, per_position, groups, reference_groups, donors, seed)
    evaluator = CircuitEvaluator.of(model, batch, objective, components, rest, options)
    sign = 1.0 if better == "lower" else -1.0
    order = _visiting_order(components, backwards)
    rules = _Rules(_Reachability.of(components), order, sign, absolute, evaluator.halves.choose)
    states = _search(evaluator, rules, limits.tolist())
    about = {"better": better, "absolute": absolute, "backwards": backwards}
    kept = components.grid(np.stack([state.kept for state in states]), False)
    return FoundCircuits(kept, _table(evaluator, states, about))


@dataclass(frozen=True)
class _SearchState:
    """The state of one threshold's search.

    Attributes:
        kept: the circuit so far, `[P]`.
        values: its objective, `[E]`.
        next: how many components have been decided on.
        ahead: how many removals to run together.
    """

    threshold: float
    kept: np.ndarray
    values: np.ndarray
    next: int
    ahead: int


class _Tries(NamedTuple):
    """The next removals of a search, as if none of them were taken back.

    Attributes:
        numbers: of each removal in the visiting order.
        left: the circuit that each removal leaves, `[P]`.
        end, kept: how far the search is after them and after the removals that need no run, and its circuit then.
    """

    numbers: list[int]
    left: list[np.ndarray]
    end: int
    kept: np.ndarray


@dataclass(frozen=True)
class _Rules:
    """Rules of a search: whether a component is reached, the visiting order, and when a change is a loss.

    Attributes:
        order: the components in the order in which they are visited, `[P]`.
        sign: of a change that is a loss.
        choose: the examples that decide.
    """

    reachability: "_Reachability"
    order: np.ndarray
    sign: float
    absolute: bool
    choose: np.ndarray

    def tries(self, state: _SearchState) -> _Tries:
        """Return the removals to run next."""
        kept, numbers, left, number = state.kept.copy(), [], [], state.next
        # Most components go, at useful thresholds: so the removals that would follow if all do are run together. The
        # decisions stay those of one at a time, since each is made on the circuit that the decisions before it left.
        while number < len(self.order):
            component = self.order[number]
            needs_run = self.reachability.reaches(kept, component)
            if needs_run and len(numbers) == state.ahead:
                break
            kept[component] = False
            if needs_run:
                numbers.append(number)
                left.append(kept.copy())
            number += 1
        return _Tries(numbers, left, number, kept)

    def decided(self, state: _SearchState, tries: _Tries, values_GE: np.ndarray) -> _SearchState:
        """Return the state after the tries, up to the first component that has to stay."""
        current_E = state.values
        for number, kept_P, after_E in zip(tries.numbers, tries.left, values_GE, strict=True):
            loss = self.sign * float(finite_mean((after_E - current_E)[self.choose]))
            # Written `not <`, so that a loss that is not a number keeps the component.
            if not (abs(loss) if self.absolute else loss) < state.threshold:
                # The later tries were run without this component: they answer nothing, and a region where components
                # stay is searched one by one again.
                kept_P[self.order[number]] = True
                return replace(state, kept=kept_P, values=current_E, next=number + 1, ahead=1)
            current_E = after_E
        # All of them went: look further ahead, so that long runs of removals cost few calls.
        return replace(state, kept=tries.kept, values=current_E, next=tries.end, ahead=min(MOST_AHEAD, 2 * state.ahead))


@dataclass(frozen=True)
class _Reachability:
    """Whether a component's change can reach the end of the stream.

    Attributes:
        leaving: for each component, those of which one at least has to be kept for it to be read; None where it always
            is.
    """

    leaving: Sequence[np.ndarray | None]

    @classmethod
    def of(cls, components: Components) -> "_Reachability":
        """Return the rule: edges into a node need an edge that leaves it; heads, and edges into the end, need none."""
        # A head that is kept writes to the stream, which later heads and the end always read.
        graph = components.graph
        if graph is None:
            return cls([None] * len(components))
        sender_P, receiver_P = components.cells.T
        leaving_V = [np.flatnonzero(np.isin(sender_P, senders)) for senders in graph.fed()]
        by_receiver = [*leaving_V, None]
        return cls([by_receiver[v] for v in receiver_P])

    def reaches(self, kept_P: np.ndarray, component: int) -> bool:
        """Return whether a component is read, if these are kept."""
        leaving = self.leaving[component]
        return leaving is None or bool(kept_P[leaving].any())


def _search(evaluator: CircuitEvaluator, rules: _Rules, thresholds: Sequence[float]) -> list[_SearchState]:
    """Return the last state of each threshold's search."""
    whole_P = np.ones(len(evaluator.components), bool)
    _, everything_E, _ = evaluator.with_ends(whole_P[None])
    states = [_SearchState(threshold, whole_P, everything_E, 0, 1) for threshold in thresholds]
    label = f"taking away {evaluator.components.kind}"
    with show_progress(len(states) * len(whole_P), label, evaluator.progress) as advance:
        while any(state.next < len(whole_P) for state in states):
            states = _step(states, rules, evaluator, advance)
    return states


def _step(
    states: Sequence[_SearchState], rules: _Rules, evaluator: CircuitEvaluator, advance: Advance
) -> list[_SearchState]:
    """Run the next tries of all searches together, and return the states that they decide."""
    # Searches at neighbouring thresholds ask for the same circuits at first: the evaluator runs them once.
    tries = [rules.tries(state) for state in states]
    masks = [mask for attempt in tries for mask in attempt.left]
    results = iter(evaluator.values(np.stack(masks)) if masks else ())
    after = []
    for state, attempt in zip(states, tries, strict=True):
        values = np.array([next(results) for _ in attempt.numbers])
        after.append(rules.decided(state, attempt, values))
        advance(after[-1].next - state.next)
    return after


def _table(evaluator: CircuitEvaluator, states: Sequence[_SearchState], about: dict[str, Any]) -> HeadTable:
    nothing_E, everything_E, _ = evaluator.with_ends(np.empty((0, len(evaluator.components)), bool))
    values_ET = np.stack([state.values for state in states], axis=1)
    values = {
        "faithfulness": values_ET - nothing_E[:, None],
        "unfaithfulness": everything_E[:, None] - values_ET,
        "circuit": values_ET,
    }
    halves = evaluator.halves

    def faithful(examples: np.ndarray) -> np.ndarray:
        whole = float(finite_mean((everything_E - nothing_E)[examples]))
        return finite_mean(values["faithfulness"][examples].T) / (whole if whole else np.nan)

    return evaluator.table(
        "search_circuits",
        values,
        ("step",),
        magnitudes=("unfaithfulness",),
        share=True,
        chosen=True,
        about=about,
        extras={
            "threshold": [state.threshold for state in states],
            "size": [int(state.kept.sum()) for state in states],
            "optimism": faithful(halves.choose) - faithful(halves.report),
        },
    )


def _visiting_order(components: Components, backwards: bool) -> np.ndarray:
    """Return the components in the order in which they are visited, `[P]`."""
    # Cells are (layer, head) or (sender, receiver): first the latest layer, or the latest receiver.
    first, second = components.cells.T
    outer, inner = (first, second) if components.graph is None else (second, first)
    return np.lexsort((-inner if backwards else inner, -outer))
