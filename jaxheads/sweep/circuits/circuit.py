"""Circuits: heads or edges are kept and the rest is ablated. Do they do what the model does, and are all needed?

Wang et al. 2022 (arXiv 2211.00593), section 4: F(C) is the objective's mean when only C is kept, M is the whole model.

Dimension key: E examples of the batch, P components (heads or edges), S sets K of components, L layers, N heads,
U senders, V receivers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...execution.resources import Options, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...progress import Advance
from ...progress import progress as show_progress
from ...tables import HeadTable
from ...view import View
from .components import Chosen, Components
from .derived_tables import finite_mean, on_grid
from .evaluate import CHUNK_SIZES, CircuitEvaluator
from .kept_runs import Ablation


@shares_options(copies=True)
@checked(donors=at_least(1))
def circuit(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    kept: Chosen | Mapping[str, Chosen],
    ablation: str = "mean",
    *,
    reference: Batch | Texts | None = None,
    per_position: bool | None = None,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    **options: Unpack[Options],
) -> "Circuit":
    """Keep some heads or edges, ablate all others, and return how much of the objective is left.

    MLPs, norms and embeddings stay as they are where heads are kept; where edges are kept, all other edges are ablated,
    those from MLPs and embeddings too.

    Args:
        kept: the circuit: (layer, head) pairs, or edges as (sender, receiver) names (see `Graph`), or bool over the
            grid of either. Or a mapping of names to such: classes, whose union is the circuit.
        ablation: what the rest becomes: "mean", its mean over the reference (Wang et al.); "zero"; "patching", its
            value in the reference, example by example (Conmy et al. 2023; MIB's counterfactual); for heads also
            "resample", its value in another example of the reference.
        reference: for "patching" the corrupt inputs, token for token; else any batch, the other examples of `batch` if
            left out.
        per_position, groups, reference_groups: of means, as in `ablate`.
        donors: of "resample", as in `ablate`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a head or edge that does not exist, an ablation that heads or edges don't have, or a batch,
            reference or objective that doesn't fit.
    """
    components = Components.chosen(model, model.stack(options.get("stack")), kept)
    classes = _classes(components, kept)
    seed = options.get("seed", 0)
    rest = Ablation(ablation, reference, per_position, groups, reference_groups, donors, seed)
    evaluator = CircuitEvaluator.of(model, batch, objective, components, rest, options)
    mask_P = np.any(list(classes.values()), axis=0)
    named = classes if isinstance(kept, Mapping) else {}
    grid = components.grid(mask_P, elsewhere=False)
    return Circuit(grid, _faithfulness(evaluator, mask_P), named, mask_P, evaluator)


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A circuit C: its components, how faithful it is, and on request how complete and how minimal.

    Attributes:
        kept: bool over the grid, `[L,N]` of heads or `[U,V]` of edges.
        faithfulness: a table of one row. `faithfulness` is (F(C) − F(∅)) / (F(M) − F(∅)), MIB's (Mueller et al. 2025):
            1 if the circuit does as well as the model, 0 if no better than nothing. `unfaithfulness` is Wang et al.'s
            |F(M) − F(C)|: 0 at best, in units of the objective. And the means themselves: `circuit` F(C), `model`
            F(M), `ablated` F(∅).
        classes: the sets that the circuit was given as, by name, `[P]` each.
    """

    kept: np.ndarray
    faithfulness: HeadTable
    classes: Mapping[str, np.ndarray]
    _mask: np.ndarray
    _evaluator: CircuitEvaluator

    def __len__(self) -> int:
        return int(self._mask.sum())

    def __repr__(self) -> str:
        return f"a circuit of {len(self)} {self._components.kind}"

    @checked(random=at_least(0), greedy=at_least(0), iterations=at_least(1), samples=at_least(1))
    def completeness(
        self,
        sets: Mapping[str, Chosen] | None = None,
        *,
        random: int = 10,
        greedy: int = 1,
        iterations: int = 10,
        samples: int = 10,
        seed: int = 0,
    ) -> HeadTable:
        """Compare damage to the circuit with damage to the model: |F(C∖K) − F(M∖K)| for sets K of its components.

        The greedy K are those of the authors' code: from nothing, in each iteration `samples` components of the circuit
        are drawn, and the one that raises the score most is added to K, if any does. They are chosen on one half of the
        examples (whole clusters, if there are any); with greedy K the table is of the other half. With fewer than 4
        examples or clusters both are all examples, as in the paper, and `provenance["held_out"]` is False.

        Args:
            sets: K by name; the circuit's classes when left out.
            random: the number of random K; each component is in one with probability 1/2.
            greedy: the number of greedy searches (the paper has 10).
            seed: of what is drawn.

        Returns:
            One row a set, the empty one first: `incompleteness`, 0 at best, `circuit` F(C∖K) and `model` F(M∖K); extras
            `name`, `removed` (the components of K), `size` and, for greedy K, `optimism`, by how much the score is
            higher on the half that chose (NaN for other K).

        Raises:
            ValueError: for a set with components outside the circuit.
        """
        evaluator, size = self._evaluator, len(self._mask)
        named = self.classes if sets is None else {name: self._inside(chosen, name) for name, chosen in sets.items()}
        rng = np.random.default_rng(seed)
        names = ["nothing", *named, *(f"random {n}" for n in range(random)), *(f"greedy {n}" for n in range(greedy))]
        removed = [np.zeros(size, bool), *named.values(), *(self._mask & (rng.random((random, size)) < 0.5))]
        total = 2 * (len(names) + greedy * (1 + iterations * min(samples, len(self))))
        with show_progress(total, f"removing sets from {self}", evaluator.progress) as advance:
            # Each search has a stream of its own: how many there are does not change what one draws.
            removed += self._greedy(rng.spawn(greedy), iterations, samples, advance)
            circuit_SE, model_SE = self._damaged(np.stack(removed), advance)
        values = {"incompleteness": circuit_SE - model_SE, "circuit": circuit_SE, "model": model_SE}
        searched = np.arange(len(names)) >= len(names) - greedy
        return evaluator.table(
            "completeness",
            {name: values_SE.T for name, values_SE in values.items()},
            ("set",),
            magnitudes=("incompleteness",),
            chosen=greedy > 0,
            about={"kept": len(self), "iterations": iterations, "samples": samples, "set_seed": seed},
            extras={
                "name": names,
                "removed": [self._components.words(mask) for mask in removed],
                "size": [int(mask.sum()) for mask in removed],
                "optimism": np.where(searched, self._optimism(values["incompleteness"]), np.nan),
            },
        )

    @checked()
    def minimality(self, sets: Mapping[Any, Chosen] | None = None) -> HeadTable:
        """Measure whether each component v of the circuit is needed: |F(C∖(K∪{v})) − F(C∖K)|.

        The paper chooses K(v) by hand, mostly the rest of v's class. Here `sets` gives it; else it is the one with the
        highest score of: nothing, and the rest of each class that v belongs to. Where that is a choice, it is made on
        one half of the examples, and the table is of the other, as in `completeness`.

        Args:
            sets: K by v, a (layer, head) pair or an edge's (sender, receiver); v itself does not count.

        Returns:
            Over the grid, NaN outside the circuit: `minimality`, 0 for what is not needed; extras `removed`, K(v), and
            `optimism`, by how much the score is higher on the half that chose K(v) (NaN where nothing was chosen).

        Raises:
            ValueError: for a v or a K outside the circuit.
        """
        components, members = self._components, np.flatnonzero(self._mask)
        if not len(members):
            raise ValueError("an empty circuit has no parts that could be needed")
        candidates = {int(v): [np.zeros_like(self._mask), *self._classes_of(int(v))] for v in members}
        for component, chosen in (sets or {}).items():
            candidates[self._number(component)] = [self._inside(chosen, f"K of {component}")]
        tries = [(v, K) for v, masks in candidates.items() for K in masks]
        changes_SE = self._changes(tries)
        chosen = len(tries) > len(members)
        choosing_SE = changes_SE[:, self._evaluator.halves.choose] if chosen else changes_SE
        score_S = np.nan_to_num(np.abs(finite_mean(choosing_SE)), nan=-1.0)
        # K(v) is the set beside which v matters most: else a component that backs v up would hide it.
        v_S = np.array([v for v, _ in tries])
        best = [int(np.flatnonzero(v_S == v)[score_S[v_S == v].argmax()]) for v in members]
        flat = self._evaluator.table(
            "minimality",
            {"minimality": changes_SE[best].T},
            ("part",),
            magnitudes=("minimality",),
            chosen=chosen,
            about={"kept": len(self)},
        )
        removed_P = np.full(len(components), "", object)
        removed_P[members] = [components.words(_without(*tries[number])) for number in best]
        optimism_P = np.full(len(components), np.nan)
        if chosen:
            optimism_P[members] = self._optimism(changes_SE[best])
        extras = {"removed": components.grid(removed_P, "").astype(str), "optimism": components.grid(optimism_P)}
        return on_grid(flat, components, members, extras)

    @checked()
    def view(self, minimality: HeadTable | None = None) -> View:
        """Show the circuit: its edges as a graph, or its heads in the grid of all, with the names of their classes.

        Args:
            minimality: of this circuit, whose numbers its parts then show.

        Raises:
            ValueError: for a table over another grid.
        """
        from .circuit_views import circuit_view

        return circuit_view(self.kept, self.faithfulness, self._components, self._classes_in_words(), minimality)

    def _classes_in_words(self) -> np.ndarray:
        """Return the names of the classes of each component, over the grid."""
        words = np.full(len(self._mask), "", object)
        for p in np.flatnonzero(self._mask):
            words[p] = ", ".join(name for name, mask in self.classes.items() if mask[p])
        return self._components.grid(words, "")

    @property
    def _components(self) -> Components:
        return self._evaluator.components

    def _changes(self, tries: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """Return F(C∖(K∪{v})) − F(C∖K) for each component v and set K, `[S,E]`."""
        evaluator, changes = self._evaluator, []
        with show_progress(2 * len(tries), f"removing each of {self}", evaluator.progress) as advance:
            # Chunk by chunk, since the masks of all edges of a large circuit are its size squared.
            for start in range(0, len(tries), CHUNK_SIZES[-1]):
                chunk = tries[start : start + CHUNK_SIZES[-1]]
                before = np.stack([self._mask & ~_without(v, K) for v, K in chunk])
                after = np.stack([_without(v, mask) for (v, _), mask in zip(chunk, before, strict=True)])
                values = evaluator.values(np.concatenate([after, before]), advance)
                changes.append(np.subtract(*np.split(values, 2)))
        return np.concatenate(changes)

    def _greedy(
        self, rngs: Sequence[np.random.Generator], iterations: int, samples: int, advance: Advance
    ) -> list[np.ndarray]:
        """Return the set that each search ends with, one search a generator."""
        if not rngs:
            return []
        removed = [np.zeros_like(self._mask) for _ in rngs]
        best = [float(self._scores(removed[:1], advance)[0])] * len(removed)
        # The searches take each step together, so that the engine gets larger chunks of circuits.
        for _ in range(iterations):
            tries, owners = [], []
            for search, (rng, mask) in enumerate(zip(rngs, removed, strict=True)):
                left = np.flatnonzero(self._mask & ~mask)
                for component in rng.choice(left, min(samples, len(left)), replace=False):
                    tries.append(mask | (np.arange(len(mask)) == component))
                    owners.append(search)
            if not tries:
                break
            for score, mask, search in zip(self._scores(tries, advance), tries, owners, strict=True):
                if score > best[search]:
                    best[search], removed[search] = float(score), mask
        return removed

    def _scores(self, removed: Sequence[np.ndarray], advance: Advance) -> np.ndarray:
        """Return the incompleteness of each set on the half that chooses."""
        differences_SE = np.subtract(*self._damaged(np.stack(removed), advance))
        return np.abs(finite_mean(differences_SE[:, self._evaluator.halves.choose]))

    def _optimism(self, values_SE: np.ndarray) -> np.ndarray:
        """Return by how much the size of each mean is larger on the half that chose than on the other, `[S]`."""
        choose, report, _ = self._evaluator.halves
        return np.abs(finite_mean(values_SE[:, choose])) - np.abs(finite_mean(values_SE[:, report]))

    def _damaged(self, removed_SP: np.ndarray, advance: Advance) -> tuple[np.ndarray, np.ndarray]:
        """Return the objective `[S,E]` of the circuit without each set, and of the model without it."""
        values = self._evaluator.values(np.concatenate([self._mask & ~removed_SP, ~removed_SP]), advance)
        return values[: len(removed_SP)], values[len(removed_SP) :]

    def _inside(self, chosen: Chosen, name: str) -> np.ndarray:
        """Return a set's mask `[P]`; raises ValueError for one that is not part of the circuit."""
        mask = self._components.mask(chosen, f"sets: {name!r}")
        if (outside := mask & ~self._mask).any():
            raise ValueError(
                f"sets: {name!r} must be part of the circuit, but {self._components.words(outside)} is not"
            )
        return mask

    def _number(self, component: Any) -> int:
        """Return the number, among all components, of one of the circuit's."""
        return int(self._inside([component], str(component)).argmax())

    def _classes_of(self, v: int) -> list[np.ndarray]:
        return [mask for mask in self.classes.values() if mask[v]]


def _classes(components: Components, kept: Any) -> dict[str, np.ndarray]:
    """Return the circuit's classes by name, `[P]` each; a single one if it was given without names."""
    classes = kept if isinstance(kept, Mapping) else {"circuit": kept}
    if not classes:
        raise ValueError("kept must name at least one set of heads or edges, got none")
    return {name: components.mask(chosen, f"kept: {name!r}") for name, chosen in classes.items()}


def _without(v: int, mask: np.ndarray) -> np.ndarray:
    """Return the mask without component v."""
    return mask & (np.arange(len(mask)) != v)


def _faithfulness(evaluator: CircuitEvaluator, mask_P: np.ndarray) -> HeadTable:
    with show_progress(3, "running the circuit, the model and nothing", evaluator.progress) as advance:
        nothing_E, everything_E, [circuit_E] = evaluator.with_ends(mask_P[None], advance)
    # Faithfulness is a ratio of means: the table divides the mean of its first column by that of F(M) - F(∅).
    values = {
        "faithfulness": circuit_E - nothing_E,
        "unfaithfulness": everything_E - circuit_E,
        "circuit": circuit_E,
        "model": everything_E,
        "ablated": nothing_E,
    }
    return evaluator.table(
        "circuit",
        {name: values_E[:, None] for name, values_E in values.items()},
        ("set",),
        magnitudes=("unfaithfulness",),
        share=True,
        extras={"kept": [evaluator.components.words(mask_P)], "size": [int(mask_P.sum())]},
    )
