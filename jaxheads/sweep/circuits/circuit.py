"""Circuits: a few heads or edges are kept and the rest is ablated. Do they do what the model does, all of them needed?

Wang et al. 2022 (arXiv 2211.00593), section 4: F(C) is the objective's mean when only C is kept, M is the whole model.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...progress import Advance
from ...progress import progress as show_progress
from ...tables import HeadTable
from .columns import finite_mean, on_the_grid
from .components import Chosen, Parts
from .evaluate import PIECES, Ablated, Keeper


def circuit(
    model: Model,
    batch: Batch,
    objective: Objective,
    kept: Chosen | Mapping[str, Chosen],
    ablation: str = "mean",
    *,
    reference: Batch | None = None,
    per_position: bool = False,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> "Circuit":
    """Keep some heads or edges, ablate all others, and see how much of the objective is left.

    MLPs, norms and embeddings stay as they are where heads are kept; where edges are, all that is heard over other
    edges is ablated, of MLPs and embeddings too.

    Args:
        kept: the circuit: (layer, head) pairs, or edges as (sender, receiver) names (see `Graph`), or bool over the
            grid of either. Or a mapping of names to such: classes, whose union is the circuit.
        ablation: what the rest becomes: "mean", its mean over the reference (Wang et al.); "zero"; "patching", what it
            is in the reference, example by example (Conmy et al. 2023; MIB's counterfactual); for heads also
            "resample", what it is in another example of the reference.
        reference: for "patching" the corrupt inputs, token for token; else any batch, `batch` itself if left out.
        per_position, groups, reference_groups, donors: of heads, as in `ablate`.
        stack: which stack's; the only one when left out.
        seed: of donors and of the bootstrap.
        level: of the intervals, a bootstrap over examples.
        memory: bytes for the activations of one piece of work.
        devices: of heads, as in `ablate`.
        progress: show a progress bar.
        resume: a directory: circuits that were run are written there, and are not run again.

    Raises:
        ValueError: for a head or edge that is not there, an ablation that these parts don't have, or a batch,
            reference or objective that doesn't fit.
    """
    parts = Parts.like(model, model.stack(stack), kept)
    classes = _classes(parts, kept)
    ablated = Ablated(ablation, reference, per_position, groups, reference_groups, donors, seed, memory, devices)
    keeper = Keeper.of(model, batch, objective, parts, ablated, level=level, progress=progress, resume=resume)
    mask_P = np.any(list(classes.values()), axis=0)
    named = classes if isinstance(kept, Mapping) else {}
    return Circuit(parts.grid(mask_P, elsewhere=False), _faithfulness(keeper, mask_P), named, mask_P, keeper)


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A circuit C: what it is, how faithful, and on request how complete and how minimal.

    Attributes:
        kept: bool over the grid, `[L,N]` of heads or `[U,V]` of edges.
        faithfulness: a table of one row. `faithfulness` is (F(C) − F(∅)) / (F(M) − F(∅)), MIB's (Mueller et al. 2025):
            1 if the circuit does as well as the model, 0 if no better than nothing. `unfaithfulness` is what Wang et
            al. measure it by, |F(M) − F(C)|: 0 at best, in units of the objective. And the means themselves: `circuit`
            F(C), `model` F(M), `ablated` F(∅).
        classes: the sets that the circuit was given as, by name, `[P]` each.
    """

    kept: np.ndarray
    faithfulness: HeadTable
    classes: Mapping[str, np.ndarray]
    _mask: np.ndarray
    _keeper: Keeper

    def __len__(self) -> int:
        return int(self._mask.sum())

    def __repr__(self) -> str:
        return f"a circuit of {len(self)} {self._keeper.parts.kind}"

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
        """Does the circuit answer to damage as the model does? |F(C∖K) − F(M∖K)| for sets K of its parts.

        The greedy K are those of the authors' code: from nothing, in each iteration `samples` parts of the circuit are
        drawn, and the one that raises the score most is added to K, if any does. They are chosen on the very examples
        they are told of, as in the paper, and the interval knows nothing of that: to confirm one, give it as `sets` to
        a circuit of other examples.

        Args:
            sets: K by name; the circuit's classes when left out.
            random: how many random K, each part being in it with probability 1/2.
            greedy: how many greedy searches (the paper has 10).
            seed: of what is drawn.

        Returns:
            One row a set, the empty one first: `incompleteness`, 0 at best, `circuit` F(C∖K) and `model` F(M∖K); extras
            `name`, `removed` (what is in K) and `size`.

        Raises:
            ValueError: for a set with parts outside the circuit.
        """
        keeper = self._keeper
        given = self.classes if sets is None else {name: self._inside(some, name) for name, some in sets.items()}
        rng, size = np.random.default_rng(seed), len(self._mask)
        names = ["nothing", *given, *(f"random {n}" for n in range(random)), *(f"greedy {n}" for n in range(greedy))]
        removed = [np.zeros(size, bool), *given.values(), *(self._mask & (rng.random((random, size)) < 0.5))]
        total = 2 * (len(names) + greedy * (1 + iterations * min(samples, len(self))))
        with show_progress(total, f"removing sets from {self}", keeper.progress) as advance:
            removed += self._greedy(rng.spawn(greedy), iterations, samples, advance)
            circuit_SE, model_SE = self._damaged(np.stack(removed), advance)
        values = {"incompleteness": circuit_SE - model_SE, "circuit": circuit_SE, "model": model_SE}
        return keeper.table(
            "completeness",
            {name: of_SE.T for name, of_SE in values.items()},
            ("set",),
            magnitudes=("incompleteness",),
            about={"kept": len(self), "iterations": iterations, "samples": samples, "set_seed": seed},
            extras={
                "name": names,
                "removed": [keeper.parts.words(mask) for mask in removed],
                "size": [int(mask.sum()) for mask in removed],
            },
        )

    def minimality(self, sets: Mapping[Any, Chosen] | None = None) -> HeadTable:
        """Is each part of the circuit needed? |F(C∖(K∪{v})) − F(C∖K)| for each v in it.

        The paper chooses K(v) by hand, mostly the rest of v's class. Here it is what `sets` says, or else the one for
        which the score is highest of: nothing, and the rest of each class that v belongs to.

        Args:
            sets: K by v, a (layer, head) pair or an edge's (sender, receiver); v itself does not count.

        Returns:
            Over the grid, NaN outside the circuit: `minimality`, 0 for what is not needed; extra `removed`, K(v).

        Raises:
            ValueError: for a v or a K outside the circuit.
        """
        keeper, parts, chosen = self._keeper, self._keeper.parts, np.flatnonzero(self._mask)
        if not len(chosen):
            raise ValueError("an empty circuit has no parts that could be needed")
        families = {int(v): [np.zeros_like(self._mask), *self._classes_of(int(v))] for v in chosen}
        for part, some in (sets or {}).items():
            families[self._place(part)] = [self._inside(some, f"K of {part}")]
        each = [(v, K) for v, family in families.items() for K in family]
        changes_KE = self._missed(each)
        sizes_K, v_K = np.nan_to_num(np.abs(finite_mean(changes_KE)), nan=-1.0), np.array([v for v, _ in each])
        best = [int(np.flatnonzero(v_K == v)[sizes_K[v_K == v].argmax()]) for v in chosen]
        flat = keeper.table(
            "minimality", {"minimality": changes_KE[best].T}, ("part",), magnitudes=("minimality",),
            about={"kept": len(self)},
        )  # fmt: skip
        removed = np.full(len(parts), "", object)
        removed[chosen] = [parts.words(_but(*each[k])) for k in best]
        return on_the_grid(flat, parts, chosen, {"removed": parts.grid(removed, "").astype(str)})

    def _missed(self, each: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """For each part v and set K, F(C∖(K∪{v})) − F(C∖K), `[K,E]`."""
        keeper, changes = self._keeper, []
        with show_progress(2 * len(each), f"removing each of {self}", keeper.progress) as advance:
            for start in range(0, len(each), PIECES[-1]):
                some = each[start : start + PIECES[-1]]
                before = np.stack([self._mask & ~_but(v, K) for v, K in some])
                after = np.stack([_but(v, mask) for (v, _), mask in zip(some, before, strict=True)])
                changes.append(np.subtract(*np.split(keeper.values(np.concatenate([after, before]), advance), 2)))
        return np.concatenate(changes)

    def _greedy(
        self, rngs: Sequence[np.random.Generator], iterations: int, samples: int, advance: Advance
    ) -> list[np.ndarray]:
        """The set that each search ends with. The searches take every step together."""
        if not rngs:
            return []
        found = [np.zeros_like(self._mask) for _ in rngs]
        best = [float(self._scores(found[:1], advance)[0])] * len(found)
        for _ in range(iterations):
            tries, owners = [], []
            for number, (rng, mask) in enumerate(zip(rngs, found, strict=True)):
                left = np.flatnonzero(self._mask & ~mask)
                for part in rng.choice(left, min(samples, len(left)), replace=False):
                    tries.append(mask | (np.arange(len(mask)) == part))
                    owners.append(number)
            if not tries:
                break
            for score, mask, number in zip(self._scores(tries, advance), tries, owners, strict=True):
                if score > best[number]:
                    best[number], found[number] = float(score), mask
        return found

    def _scores(self, removed: Sequence[np.ndarray], advance: Advance) -> np.ndarray:
        """Incompleteness of each set."""
        return np.abs(finite_mean(np.subtract(*self._damaged(np.stack(removed), advance))))

    def _damaged(self, removed_SP: np.ndarray, advance: Advance) -> tuple[np.ndarray, np.ndarray]:
        """The objective `[S,E]` of the circuit without each set, and of the model without it."""
        values = self._keeper.values(np.concatenate([self._mask & ~removed_SP, ~removed_SP]), advance)
        return values[: len(removed_SP)], values[len(removed_SP) :]

    def _inside(self, some: Chosen, name: str) -> np.ndarray:
        parts = self._keeper.parts
        mask = parts.mask(some, f"set {name!r}")
        if (outside := mask & ~self._mask).any():
            raise ValueError(f"set {name!r} must be part of the circuit, but {parts.words(outside)} is not")
        return mask

    def _place(self, part: Any) -> int:
        """Where a single part of the circuit is among all."""
        return int(self._inside([part], str(part)).argmax())

    def _classes_of(self, v: int) -> list[np.ndarray]:
        return [mask for mask in self.classes.values() if mask[v]]


def _classes(parts: Parts, kept: Any) -> dict[str, np.ndarray]:
    """Parts by name; of one class if they were given as none."""
    given = kept if isinstance(kept, Mapping) else {"circuit": kept}
    if not given:
        raise ValueError("kept must name at least one set of heads or edges, got none")
    return {name: parts.mask(some, f"class {name!r}") for name, some in given.items()}


def _but(v: int, mask: np.ndarray) -> np.ndarray:
    """The mask without v."""
    return mask & (np.arange(len(mask)) != v)


def _faithfulness(keeper: Keeper, mask_P: np.ndarray) -> HeadTable:
    with show_progress(3, "running the circuit, the model and nothing", keeper.progress) as advance:
        nothing_E, everything_E, [circuit_E] = keeper.with_ends(mask_P[None], advance)
    values = {
        "faithfulness": circuit_E - nothing_E,
        "unfaithfulness": everything_E - circuit_E,
        "circuit": circuit_E,
        "model": everything_E,
        "ablated": nothing_E,
    }
    return keeper.table(
        "circuit",
        {name: of_E[:, None] for name, of_E in values.items()},
        ("set",),
        magnitudes=("unfaithfulness",),
        share=True,
        extras={"kept": [keeper.parts.words(mask_P)], "size": [int(mask_P.sum())]},
    )
