"""The objective when only a circuit is kept, and all other heads or edges are ablated.

Letters beside the usual ones: P parts (heads or edges), G circuits.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...execution.journal import Journal, fingerprint
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...progress import Advance
from ...statistics import check_level
from ...tables import HeadTable
from ..effects import asked_of, effect_table
from ..exact.engine import Site
from ..exact.patch import Others, check_pair, first_difference
from ..exact.plan import Plan, bucket
from ..exact.replacement import METHODS, Replacement
from ..exact.work import Prepared, Resources, Sources, Sweep
from .columns import columns_of, magnitude
from .components import Parts
from .keep_edges import ABLATIONS, keep_edges

PIECES = (1, 4, 16, 64)
"""How many circuits are asked for together, and then written to disk. Few numbers: each is a compilation."""

COPIES = 16
"""The most of them in one step of the engine."""

MOST_KNOWN = 4096
"""Circuits whose objective is remembered, until they are too many."""

Run = Callable[[np.ndarray], np.ndarray]
"""From what is kept, bool `[G, *grid]`, to the objective `[G,E]`."""


@dataclass(frozen=True)
class Ablated:
    """What becomes of the parts that are not kept; `circuit` says what the fields mean."""

    ablation: str
    reference: Batch | None = None
    per_position: bool = False
    groups: ArrayLike | None = None
    reference_groups: ArrayLike | None = None
    donors: int = 1
    seed: int = 0
    memory: int = 1 << 30
    devices: jax.sharding.Mesh | None = None

    def run(self, model: Model, parts: Parts, batch: Batch, objective: Objective) -> tuple[Run, dict[str, Any], Any]:
        """How circuits are run, what to say of it, and the data that it depends on.

        Raises:
            ValueError: for an ablation that these parts don't have, or a batch, reference or groups that don't fit.
        """
        known = ("patching", *METHODS) if parts.graph is None else ABLATIONS
        if self.ablation not in known:
            raise ValueError(f"{parts.kind} that are not kept are ablated by {', '.join(known)}; got {self.ablation!r}")
        if self.ablation == "patching":
            if self.reference is None:
                raise ValueError("patching takes what is not kept from a corrupt run: give its inputs as reference=")
            if self.per_position or self.groups is not None:
                raise ValueError("patching takes each example's own counterpart; positions and groups are for means")
            check_pair(model, batch, self.reference)
        if parts.graph is not None:
            return self._edges(model, parts.stack, batch, objective)
        prepared, first, about, data = self._stand_ins(model, parts.stack, batch)
        reads, room = objective.reads(model, batch), Resources(self.memory, Devices.of(self.devices))
        prepared = Prepared(prepared.count, _once(prepared.make))

        def run(kept_GLN: np.ndarray) -> np.ndarray:
            steps = _steps(parts.stack, ~kept_GLN, first)
            sweep = Sweep.planned(model, parts.stack, batch, objective, reads, prepared, steps, room)
            return sweep.run(Journal(None, ""), lambda _: None, {})[1].T

        return run, about, data

    def _stand_ins(self, model: Model, stack: Stack, batch: Batch) -> tuple[Prepared, int, dict[str, Any], Any]:
        """What heads are replaced by, the first column it may differ in, what to say of it, and its data."""
        if self.ablation == "patching":
            given, T = self.reference, stack.queries.count(batch)
            assert given is not None
            first = int(bucket(min(first_difference(stack, batch, given), T - 1), T)) if stack.causal else 0
            return Prepared(1, lambda _: Others(given), 1), first, {"ablation": self.ablation}, given
        asked = Replacement.of(
            self.ablation, self.reference, self.per_position, self.groups, self.reference_groups, self.donors, self.seed
        )
        asked.check(model, batch)
        about = asked.about()
        about = {"ablation": about.pop("method"), **about}
        return asked.sources(stack).of(batch), 0, about, asked.data()

    def _edges(self, model: Model, stack: Stack, batch: Batch, objective: Objective) -> tuple[Run, dict[str, Any], Any]:
        if self.per_position or self.groups is not None:
            raise ValueError("edges are not ablated by position or by groups; heads are")
        given = batch if self.reference is None and self.ablation == "mean" else self.reference

        def run(kept_GUV: np.ndarray) -> np.ndarray:
            return keep_edges(
                model, batch, given, objective, kept_GUV,
                ablation=self.ablation, stack=stack.name, memory=self.memory, devices=self.devices,  # type: ignore[arg-type]
            )  # fmt: skip

        return run, {"ablation": self.ablation}, given


@dataclass(frozen=True, eq=False)
class Keeper:
    """Asks for the objective of circuits, of each only once.

    Attributes:
        about: the question, for provenance.
        known: what was found so far, by what was kept.
    """

    model: Model
    parts: Parts
    objective: Objective
    run: Run
    about: dict[str, Any]
    journal: Journal
    level: float
    seed: int
    progress: bool
    known: dict[bytes, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        batch: Batch,
        objective: Objective,
        parts: Parts,
        ablated: Ablated,
        *,
        level: float = 0.95,
        progress: bool = False,
        resume: str | os.PathLike | None = None,
    ) -> "Keeper":
        """Checked; nothing runs yet."""
        check_level(level)
        if not isinstance(batch, Batch):
            raise ValueError(f"circuits are asked of one batch, got a {type(batch).__name__}")
        model.check(batch)
        reads = objective.reads(model, batch)
        run, about, data = ablated.run(model, parts, batch, objective)
        about = {"parts": parts.kind, **about}
        journal = Journal(None, "")
        if resume is not None:
            words = (objective.name, parts.stack.name, repr(about))
            journal = Journal(resume, f"circuits-{fingerprint(model, batch, reads, data, words)}")
        return cls(model, parts, objective, run, about, journal, level, ablated.seed, progress)

    def values(self, kept_GP: np.ndarray, advance: Advance = lambda _: None) -> np.ndarray:
        """The objective `[G,E]` of each circuit."""
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        keys = [np.packbits(kept_P).tobytes() for kept_P in kept_GP]
        new = {key: kept_P for key, kept_P in zip(keys, kept_GP, strict=True) if key not in self.known}
        advance(len(keys) - len(new))
        waiting = list(new)
        while waiting:
            size = _piece(len(waiting))
            some, waiting = waiting[:size], waiting[size:]
            kept = np.stack([new[key] for key in some])
            name = hashlib.sha256(b"".join(some)).hexdigest()[:16]
            found_GE = self.journal.piece(name, lambda kept=kept, size=size: self._run(kept, size))
            self.known.update(zip(some, found_GE, strict=True))
            advance(len(some))
        return np.stack([self.known[key] for key in keys])

    def with_ends(
        self, kept_GP: np.ndarray, advance: Advance = lambda _: None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The objective `[E]` when nothing is kept, and when everything is; and that of each circuit, `[G,E]`."""
        ends_2P = np.repeat([[False], [True]], len(self.parts), axis=1)
        nothing_E, everything_E, *each_GE = self.values(np.concatenate([ends_2P, kept_GP]), advance)
        return nothing_E, everything_E, np.reshape(each_GE, (-1, len(nothing_E)))

    def _run(self, kept_GP: np.ndarray, size: int) -> np.ndarray:
        """Run so many circuits, repeating the last."""
        filled = kept_GP[np.minimum(np.arange(size), len(kept_GP) - 1)]
        return np.asarray(self.run(self.parts.grid(filled, elsewhere=False)), np.float64)[: len(kept_GP)]

    def table(
        self,
        name: str,
        values: Mapping[str, np.ndarray],
        axes: Sequence[str],
        *,
        magnitudes: Sequence[str] = (),
        share: bool = False,
        about: Mapping[str, Any] | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> HeadTable:
        """A table of numbers `[E, *grid]` by name.

        Args:
            magnitudes: columns of which the mean's size is told, without its sign.
            share: the first column is told as a share of F(everything) - F(nothing), both means.
        """
        nothing_E, everything_E, _ = self.with_ends(np.empty((0, len(self.parts)), bool))
        told = {**asked_of(self.model, self.objective), **self.about, **(about or {})}
        flat = effect_table(
            name, self.parts.stack.name, values, everything_E, told,
            axes=axes, total=everything_E - nothing_E if share else None, level=self.level, seed=self.seed,
        )  # fmt: skip
        columns = columns_of(flat)
        if share:
            columns[flat.metrics[0]] = columns.pop("normalised")
        columns |= {column: magnitude(columns[column]) for column in magnitudes}
        return HeadTable.from_columns(name, flat.stack, columns, flat.provenance, axes=axes, extras=extras)


def _once(make: Callable[[Sweep], Sources]) -> Callable[[Sweep], Sources]:
    """All sweeps have the sources of the first."""
    made: list[Sources] = []

    def sources(sweep: Sweep) -> Sources:
        if not made:
            made.append(make(sweep))
        return made[0]

    return sources


def _piece(count: int) -> int:
    """How many to run next, of so many: rather some too many than a small rest, but never twice as many."""
    above = next((size for size in PIECES if count <= size), PIECES[-1])
    return above if 2 * count > above else max(size for size in PIECES if size <= count)


def _steps(stack: Stack, ablated_GLN: np.ndarray, first: int) -> tuple[Plan, ...]:
    """Copies in steps of one size, so that one compilation serves them all; those that start alike are together."""
    layers_GL = np.any(ablated_GLN, axis=2)
    start_G = np.where(np.any(layers_GL, axis=1), np.argmax(layers_GL, axis=1), stack.layers - 1)
    order, site = np.argsort(start_G, kind="stable"), Site(stack.name, "z", first, later=True)
    return tuple(
        Plan(site, int(start_G[some[0]]), ablated_GLN[some], np.full(len(some), -1, np.int32), some)
        for some in np.split(order, range(COPIES, len(order), COPIES))
    )
