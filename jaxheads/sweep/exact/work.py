"""Executes a sweep's plans, piece by piece: examples by examples, and of each the edited copies that fit together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ...execution.batching import choose_chunks
from ...execution.devices import Devices
from ...execution.journal import Journal
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ..memory import OutOfMemory, each_piece, memory_runs_out
from .engine import Cells, Source, UneditedRun, edited, run_unedited
from .plan import Plan, Sizes, SweepPlan

PART_FLOPS = {"cpu": 2e12}
"""Finished work is written when it has cost this much: some 10 seconds."""
PART_FLOPS_ELSEWHERE = 1e15


@dataclass(frozen=True)
class Resources:
    """What a sweep may use: bytes for the activations of one piece of work on each device, and the devices."""

    memory: int
    devices: Devices
    _networks: dict[int, Network] = field(default_factory=dict, repr=False)

    def network(self, model: Model) -> Network:
        """The model's network on the devices, put there once."""
        if id(model) not in self._networks:
            self._networks[id(model)] = self.devices.network(model.network)
        return self._networks[id(model)]


class Prepared(NamedTuple):
    """Sources that are computed when they are needed: planning a sweep runs nothing. `runs` says how many times the
    model is run on as many examples for them."""

    count: int
    make: Callable[["Sweep"], "Sources"]
    runs: int = 0


class Sources(Protocol):
    """Where a sweep gets its replacements from, one piece of examples at a time."""

    def of(self, piece: Batch, examples: np.ndarray, sweep: "Sweep") -> Iterator[Source]:
        """Sources for these examples of the batch; results are averaged over them."""
        ...


@dataclass(frozen=True)
class Sweep:
    """A question, ready to be asked: plans, and everything they are executed with."""

    model: Model
    stack: Stack
    batch: Batch
    objective: Objective
    reads: Reads
    prepared: Prepared
    plan: SweepPlan
    room: Resources

    @classmethod
    def planned(
        cls,
        model: Model,
        stack: Stack,
        batch: Batch,
        objective: Objective,
        reads: Reads,
        prepared: Prepared,
        steps: Sequence[Plan],
        room: Resources,
    ) -> "Sweep":
        """With its work cut into pieces."""
        sizes = Sizes.of(model, stack, batch, reads)
        pieces = choose_chunks(sizes, steps, len(batch), memory=room.memory, multiples=room.devices.multiples)
        plan = SweepPlan(tuple(steps), sizes, len(batch), pieces, prepared.count, prepared.runs)
        return cls(model, stack, batch, objective, reads, prepared, plan, room)

    @cached_property
    def network(self) -> Network:
        """The network, on the devices."""
        return self.room.network(self.model)

    @cached_property
    def sources(self) -> Sources:
        """What edits put in place, computed once."""
        return self.prepared.make(self)

    @property
    def cells(self) -> int:
        """How many results each example has."""
        return sum(map(len, self.plan.steps))

    def run(
        self, journal: Journal, advance: Callable[[int], None], coordinates: Mapping[str, np.ndarray], first: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The objective of the unedited run `[E]` and of every copy `[E,C]`, float64.

        Args:
            advance: is told how many (example, copy) pairs are done.
            coordinates: what each copy is called in the parts that are written, each `[C]`.
            first: the number of the batch's first example there.

        Raises:
            MemoryError: if not even one copy of one example fits the device.
        """
        unedited_E, edited_EC = np.empty(len(self.batch)), np.empty((len(self.batch), self.cells))
        fits = _Fits(self.plan.pieces.copies)

        def run(examples: np.ndarray) -> None:
            kept = np.unique(examples)
            piece = _Piece(self, examples, fits)
            unedited_E[kept], edited_EC[kept] = self._piece(piece, journal, advance, coordinates, first + kept)

        each_piece(self.plan.pieces, len(self.batch), run)
        return unedited_E, edited_EC

    def _piece(
        self,
        piece: "_Piece",
        journal: Journal,
        advance: Callable[[int], None],
        coordinates: Mapping[str, np.ndarray],
        numbers: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of one piece of examples, whose numbers are given, without those that only fill it up."""
        real, name = len(numbers), f"{len(piece.examples)}-from-{numbers[0]}"
        unedited_B = journal.piece(f"{name}-unedited", lambda: piece.unedited()[:real], {"example": numbers})
        edited_BC = np.empty((real, self.cells))
        for part, steps in enumerate(self._parts(real)):
            cells = np.concatenate([step.cells for step in steps])
            called = {key: value[cells][None] for key, value in coordinates.items()}
            edited_BC[:, cells] = journal.piece(
                f"{name}-part-{part}",
                lambda steps=steps: piece.edited(steps)[:real],
                {"example": numbers[:, None], **called},
            )
            advance(edited_BC[:, cells].size)
        return unedited_B, edited_BC

    def _parts(self, examples: int) -> Iterator[list[Plan]]:
        """The steps in groups that are worth a file."""
        enough = PART_FLOPS.get(jax.default_backend(), PART_FLOPS_ELSEWHERE)
        group: list[Plan] = []
        spent = 0.0
        for step in self.plan.steps:
            group.append(step)
            spent += step.flops(self.plan.sizes, examples) * self.prepared.count
            if spent >= enough:
                yield group
                group, spent = [], 0.0
        if group:
            yield group


@dataclass(frozen=True)
class _Piece:
    """Some of the examples, with what their copies share, computed when it is first asked for."""

    sweep: Sweep
    examples: np.ndarray
    fits: "_Fits"

    @cached_property
    def batch(self) -> Batch:
        return self.sweep.room.devices.examples(self.sweep.batch.take(self.examples))

    @cached_property
    def reads(self) -> Reads:
        return self.sweep.room.devices.examples(self.sweep.reads.take(self.examples))

    @cached_property
    def clean(self) -> UneditedRun:
        site, value = self.sweep.plan.steps[0].site._replace(first=0), self.sweep.objective.value
        with memory_runs_out():
            return jax.block_until_ready(
                run_unedited(self.sweep.network, self.batch, self.reads, site=site, value=value)
            )

    @cached_property
    def sources(self) -> list[Source]:
        return list(self.sweep.sources.of(self.batch, self.examples, self.sweep))

    def unedited(self) -> np.ndarray:
        """The objective `[B]` of the unedited run."""
        return self.sweep.room.devices.fetch(self.clean.value).astype(np.float64)

    def edited(self, steps: Sequence[Plan]) -> np.ndarray:
        """The objective `[B,C]` of the steps' copies, averaged over the sources."""
        return np.concatenate([self._step(step) for step in steps], axis=1)

    def _step(self, step: Plan) -> np.ndarray:
        values_BC = np.zeros((len(self.batch), len(step)))
        for source in self.sources:
            values_BC += self._copies(step, source)
        return values_BC / len(self.sources)

    def _copies(self, step: Plan, source: Source) -> np.ndarray:
        """The objective `[B,C]` of a step's copies; where memory runs out, fewer of them at a time from then on."""
        values_BC = np.empty((len(self.batch), len(step)))
        while True:
            try:
                for copies in replace(self.sweep.plan.pieces, copies=self.fits.copies).copy_pieces(len(step)):
                    values_BC[:, copies] = self._ask(step, source, copies).T
                return values_BC
            except OutOfMemory:
                fewer = self.sweep.plan.pieces.fewer(self.fits.copies)
                if fewer == self.fits.copies:
                    raise
                self.fits.copies = fewer

    def _ask(self, step: Plan, source: Source, copies: np.ndarray) -> np.ndarray:
        devices = self.sweep.room.devices
        cells = devices.cells(Cells(jnp.asarray(step.heads[copies]), jnp.asarray(step.position[copies])))
        with memory_runs_out():
            values_GB = edited(
                self.sweep.network,
                self.batch,
                self.reads,
                self.clean,
                source,
                cells,
                step.layer,
                site=step.site,
                value=self.sweep.objective.value,
            )
            return devices.fetch(values_GB).astype(np.float64)


@dataclass
class _Fits:
    """How many copies fit the device's memory at once, as far as is known."""

    copies: int
