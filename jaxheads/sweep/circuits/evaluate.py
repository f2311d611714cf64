"""The objective of many circuits of one model and batch, each run only once.

Dimension key: E examples of the batch, P components (heads or edges), G circuits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...execution.journal import Journal
from ...execution.lengths import Known, Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective, range_of
from ...progress import Advance
from ...reads import reads_of
from ...statistics import split_halves
from ...tables import HeadTable
from ..effects import effect_provenance, effect_table, magnitude
from ..pairs import check_pair
from .components import Components
from .derived_tables import columns_of
from .kept_runs import Ablation, KeptRuns

CHUNK_SIZES = (1, 4, 16, 64)
"""Numbers of circuits that are run together, and then written to disk. They are few, as each is a compilation."""

MOST_KNOWN = 4096
"""Circuits whose objective is remembered; beyond it all are forgotten."""


def _padded(model: Model, batch: Batch, objective: Known, ablation: Ablation) -> tuple[Batch, Known, Ablation]:
    """Return a batch with its objective and the ablation's reference, padded to a common length; see `Lengths`."""
    reference, lengths = ablation.reference, Lengths(model)
    if reference is None:
        others: tuple[Batch, ...] = ()
    elif ablation.method == "patching":
        check_pair(model, batch, reference)  # before one is padded as the other is
        others = (reference,)
    else:
        model.check(reference, packed=True)
        others = ()
        ablation = replace(ablation, reference=Lengths(model).alike(reference)[0])
    # A search runs some hundred circuits.
    reads, batch, *padded = lengths.read(objective.objective, objective.known, batch, *others, runs=sweep_runs(100))
    if padded:
        ablation = replace(ablation, reference=padded[0])
    return batch, replace(objective, known=reads), ablation


@dataclass(frozen=True, eq=False)
class CircuitEvaluator:
    """The objective of circuits: each is run once, and remembered in memory and in the journal.

    Attributes:
        runs: runs the model with circuits kept.
        known: objectives `[E]` so far, by the packed bits of the circuit.
    """

    model: Model
    components: Components
    objective: Objective
    runs: KeptRuns
    journal: Journal
    level: float
    seed: int
    progress: bool | None
    clusters: np.ndarray | None = None
    known: dict[bytes, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        batch: Batch,
        objective: Objective,
        components: Components,
        ablation: Ablation,
        options: Options,
    ) -> "CircuitEvaluator":
        """Check a question about circuits; nothing runs yet.

        Raises:
            ValueError: for a stream of batches, and for what the model, the objective or the ablation can't do.
        """
        resources = Resources.of(options)
        if not isinstance(batch, Batch):
            raise ValueError(f"circuits are asked of one batch, got a {type(batch).__name__}")
        model.check(batch)
        reads = reads_of(objective, model, batch)
        batch, asked, ablation = _padded(model, batch, Known.of(objective, reads), ablation)
        runs = ablation.runs(model, components, batch, asked, resources)
        # The objective itself, not its name, which others may share.
        words = (objective, components.stack.name, components.kind, repr(runs.about))
        journal = resources.journal("circuits", model, batch, asked.known, runs.identity, words)
        level, progress = options.get("level", 0.95), resources.progress
        clusters = batch.cluster_labels
        return cls(model, components, objective, runs, journal, level, ablation.seed, progress, clusters)

    def values(self, kept_GP: np.ndarray, advance: Advance = lambda _: None) -> np.ndarray:
        """Return the objective `[G,E]` of each circuit; `advance` is called with the number of circuits just known."""
        # Forgetting all is safe: circuits that are asked for again are run again, or read from the journal.
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        keys = [np.packbits(kept_P).tobytes() for kept_P in kept_GP]
        new = {key: kept_P for key, kept_P in zip(keys, kept_GP, strict=True) if key not in self.known}
        advance(len(keys) - len(new))
        waiting = list(new)
        while waiting:
            size = _chunk_size(len(waiting))
            chunk, waiting = waiting[:size], waiting[size:]
            kept = np.stack([new[key] for key in chunk])
            # A search decides by what it has run: it asks for the same chunks again, and finds them under their hash.
            name = hashlib.sha256(b"".join(chunk)).hexdigest()[:16]
            values_GE = self.journal.part(name, lambda kept=kept, size=size: self._run(kept, size))
            self.known.update(zip(chunk, values_GE, strict=True))
            advance(len(chunk))
        return np.stack([self.known[key] for key in keys])

    def with_ends(
        self, kept_GP: np.ndarray, advance: Advance = lambda _: None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the objective with nothing kept `[E]`, with everything kept `[E]`, and of each circuit `[G,E]`."""
        ends_2P = np.repeat([[False], [True]], len(self.components), axis=1)
        nothing_E, everything_E, *circuits_GE = self.values(np.concatenate([ends_2P, kept_GP]), advance)
        return nothing_E, everything_E, np.reshape(circuits_GE, (-1, len(nothing_E)))

    @cached_property
    def halves(self) -> "Halves":
        """The examples that sets are chosen on, and those that they are reported on."""
        return Halves.of(len(self.with_ends(np.empty((0, len(self.components)), bool))[0]), self.seed, self.clusters)

    def table(
        self,
        name: str,
        values: Mapping[str, np.ndarray],
        axes: Sequence[str],
        *,
        magnitudes: Sequence[str] = (),
        share: bool = False,
        chosen: bool = False,
        about: Mapping[str, Any] | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> HeadTable:
        """Return a table of numbers `[E, *grid]` by column.

        Args:
            magnitudes: columns whose mean is given without its sign.
            share: whether the first column is given as a share of F(everything) - F(nothing), both means.
            chosen: whether sets were chosen on one half of the examples: the table is then of the other.
        """
        nothing_E, everything_E, _ = self.with_ends(np.empty((0, len(self.components)), bool))
        words = {"parts": self.components.kind, **self.runs.about, **(about or {})}
        rows = np.arange(len(nothing_E))
        if chosen:
            rows, words = self.halves.report, words | self.halves.about
        values = {column: numbers[rows] for column, numbers in values.items()}
        nothing_E, everything_E = nothing_E[rows], everything_E[rows]
        # Given as effects of a total, the share gets the interval of a ratio of means, both drawn together.
        flat = effect_table(
            name,
            self.components.stack.name,
            values,
            everything_E,
            effect_provenance(self.model, self.objective, words),
            axes=axes,
            total=everything_E - nothing_E if share else None,
            clusters=None if self.clusters is None else self.clusters[rows],
            ranges={"circuit": range_of(self.objective)},
            level=self.level,
            seed=self.seed,
        )
        columns = columns_of(flat)
        if share:
            # `normalised` is the first column over the total: it takes the column's name.
            columns[flat.metrics[0]] = columns.pop("normalised")
        columns |= {column: magnitude(columns[column]) for column in magnitudes}
        for entry in flat.provenance["not_finite"]:
            entry["example"] = int(rows[entry["example"]])
        return HeadTable.from_columns(
            name, flat.stack, columns, flat.provenance, axes=axes, extras=extras, clusters=flat.clusters
        )

    def _run(self, kept_GP: np.ndarray, size: int) -> np.ndarray:
        """Run a chunk of `size` circuits, the last repeated; return the objective `[G,E]` of the given ones."""
        filled = kept_GP[np.minimum(np.arange(size), len(kept_GP) - 1)]
        values_GE = self.runs.values(self.components.grid(filled, elsewhere=False))
        return np.asarray(values_GE, np.float64)[: len(kept_GP)]


class Halves(NamedTuple):
    """Examples to choose sets on, and examples to report them on; the same ones where there are too few for two halves.

    Attributes:
        choose, report: numbers of examples.
        held_out: whether the two are disjoint.
    """

    choose: np.ndarray
    report: np.ndarray
    held_out: bool

    @classmethod
    def of(cls, examples: int, seed: int, clusters: np.ndarray | None) -> "Halves":
        """Split the examples, or whole clusters of them, at random."""
        # A half needs two independent examples to have a spread.
        if (examples if clusters is None else len(np.unique(clusters))) < 4:
            every = np.arange(examples)
            return cls(every, every, held_out=False)
        return cls(*split_halves(examples, seed, clusters), held_out=True)

    @property
    def about(self) -> dict[str, Any]:
        """Words for the provenance."""
        return {"held_out": self.held_out, "chosen_on": len(self.choose), "reported_on": len(self.report)}


def _chunk_size(count: int) -> int:
    """Return how many circuits to run next of so many that wait."""
    # Rather a few copies of the last circuit than a small rest, but never twice the work: 3 run as 4, 8 as 4 and 4.
    above = next((size for size in CHUNK_SIZES if count <= size), CHUNK_SIZES[-1])
    return above if 2 * count > above else max(size for size in CHUNK_SIZES if size <= count)
