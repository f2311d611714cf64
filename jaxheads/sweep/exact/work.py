"""The work of an exact sweep on one chunk of examples: edited copies, as many at a time as memory takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...execution.batching import OutOfMemory, detecting_out_of_memory, is_new
from ...execution.cost import CostModel
from ...execution.devices import Devices
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...programs import to_device
from ..cached_run import rows_read, stream_of
from ..grid import Grid
from ..question import CellGroup, Question
from .engine import EditedCopies, SiteValues, UneditedRun, edited, run_unedited
from .plan import EditGroup, Plan, all_together, choose_chunks, worthwhile_starts
from .upward import edited_upward, joins


class Chunk(NamedTuple):
    """One chunk of examples on the devices.

    Attributes:
        examples: their indices in the batch.
        z: every head's output in the unedited run, `[L,B,T,N,H]`, where `z` is what is edited.
    """

    network: Network
    stack: Stack
    batch: Batch
    reads: Reads
    objective: Objective
    examples: np.ndarray
    devices: Devices
    z: jax.Array | None = None


class ValueSource(Protocol):
    """A source of the values that edits put in place, chunk by chunk. Planning makes it, only `of` computes.

    Attributes:
        count: how many values each copy gets, one after the other; its result is the mean over them.
        runs: how many forward passes of the batch they cost.
    """

    count: int
    runs: int

    def of(self, chunk: Chunk) -> Iterator[SiteValues]:
        """Yield the values for these examples."""
        ...

    def baseline(self, chunk: Chunk, values: Sequence[SiteValues]) -> jax.Array | None:
        """Return the objective `[B]` of the run that values come from, if an effect can be a share of that change."""
        ...


def exact(
    model: Model,
    stack: Stack,
    batch: Batch,
    objective: Objective,
    reads: Reads,
    cells: tuple[Grid, Sequence[EditGroup]],
    source: ValueSource,
    resources: Resources,
    *,
    identity: tuple[Any, ...],
    about: Mapping[str, Any],
    extras: Mapping[str, ArrayLike] | None = None,
) -> Question:
    """Return the question that the engine answers: its plan, and the work on each chunk.

    Args:
        cells: the grid, and the edited copies that answer its cells.
        identity, about, extras: as `Question` has them.
    """
    grid, groups = cells
    costs = CostModel.of(model, stack, batch, reads)
    groups = worthwhile_starts(groups, costs, len(batch), source.count)
    chunks = choose_chunks(costs, groups, len(batch), resources)
    together = all_together(chunks, costs, groups, len(batch))
    chunks, upward = (chunks, False) if together is None else (together, True)
    placement = resources.placement(model)
    plan = Plan(tuple(groups), costs, len(batch), chunks, placement, source.count, source.runs, upward)
    # Memory that ended once would end in each later chunk again: the smaller number is kept for all of them.
    fitting = _Fitting(chunks.copies, upward)

    def work(examples: np.ndarray) -> ExactWork:
        devices = resources.devices
        # Inputs are put in place here, and XLA splits every later computation to match.
        own_batch, own_reads = devices.examples((batch.model_inputs.take(examples), reads.take(examples)))
        chunk = Chunk(resources.network(model), stack, own_batch, own_reads, objective, examples, devices)
        return ExactWork(chunk, plan, source, fitting)

    return Question(
        model,
        stack,
        batch,
        objective,
        reads,
        grid,
        tuple(plan.cell_groups()),
        chunks,
        work,
        resources,
        identity=identity,
        about=about,
        extras=extras,
        plan=plan,
    )


@dataclass
class _Fitting:
    """What fits the device's memory at once, as far as is known; shared by a question's chunks.

    Attributes:
        copies: of one group.
        upward: whether the copies of all groups do.
    """

    copies: int
    upward: bool


@dataclass(frozen=True)
class ExactWork:
    """Results of one chunk of examples; the unedited run and the values are computed when first needed."""

    chunk: Chunk
    plan: Plan
    source: ValueSource
    fitting: _Fitting

    def baselines(self) -> np.ndarray:
        """Return the objective of the unedited run and, if there is one, of the run that values come from."""
        other = self.source.baseline(self.chunk, self._values)
        values = [self._unedited.value] if other is None else [self._unedited.value, other]
        return np.stack([self.chunk.devices.fetch(value_B).astype(np.float64) for value_B in values])

    def effects(self, group: CellGroup) -> np.ndarray:
        """Return the effects `[B,cells]` of some groups of copies."""
        # In float64 the difference of two float32 objectives is exact.
        return self._edited_groups(group.key) - self.baselines()[0][:, None]

    @cached_property
    def _unedited(self) -> UneditedRun:
        chunk = self.chunk
        # Cached from the first column, whatever the groups' own starts: one compilation and one run for all of them.
        site, value = self.plan.groups[0].site._replace(first=0), chunk.objective.value
        # JAX computes asynchronously: without waiting, the want of memory would surface somewhere else.
        with detecting_out_of_memory():
            run = run_unedited(chunk.network, chunk.batch, chunk.reads, site=site, value=value)
            return jax.block_until_ready(run)

    @cached_property
    def _values(self) -> list[SiteValues]:
        return list(self.source.of(self.chunk._replace(z=self._unedited.z)))

    def _edited_groups(self, groups: Sequence[EditGroup]) -> np.ndarray:
        """Return the objective `[B,C]` of several groups' copies, averaged over the source's values."""
        if self.fitting.upward:
            try:
                return np.mean([self._run_upward(groups, values) for values in self._values], axis=0)
            except OutOfMemory:
                self.fitting.upward = False
        return np.concatenate([self._edited(group) for group in groups], axis=1)

    def _edited(self, group: EditGroup) -> np.ndarray:
        """Return the objective `[B,C]` of a group's copies, averaged over the source's values."""
        return np.mean([self._edited_with(group, values) for values in self._values], axis=0)

    def _edited_with(self, group: EditGroup, values: SiteValues) -> np.ndarray:
        """Return the objective `[B,C]` of a group's copies; where memory runs out, fewer run together from then on."""
        chunks, edited_BC = self.plan.chunks, np.empty((len(self.chunk.batch), len(group)))
        while True:
            try:
                for copies in replace(chunks, copies=self.fitting.copies).copy_chunks(len(group)):
                    edited_BC[:, copies] = self._run_copies(group, values, copies).T
                return edited_BC
            except OutOfMemory:
                fewer = chunks.fewer(self.fitting.copies)
                if fewer == self.fitting.copies:
                    # One copy of these examples does not fit: `run_chunks` halves the examples.
                    raise
                self.fitting.copies = fewer

    def _run_upward(self, groups: Sequence[EditGroup], values: SiteValues) -> np.ndarray:
        """Return the objective `[B,C]` of several groups' copies, in one pass through all layers."""
        chunk, site = self.chunk, groups[0].site
        # Each group is filled up by itself: the joins must not depend on how many positions the longest text has.
        numbers = [next(self.plan.chunks.copy_chunks(len(group))) for group in groups]
        filled = list(zip(groups, numbers, strict=True))
        heads_CLN = np.concatenate([group.heads[copies] for group, copies in filled])
        position_C = np.concatenate([group.position[copies] for group, copies in filled])
        starts = np.repeat([group.layer for group in groups], list(map(len, numbers)))
        # Where the objective reads rows, the last layer runs at these alone, apart from the others.
        apart = rows_read(chunk.network, stream_of(chunk.network, site.stack), chunk.reads) is not None
        with detecting_out_of_memory():
            values_CB = edited_upward(
                chunk.network,
                chunk.batch,
                chunk.reads,
                self._unedited,
                values,
                EditedCopies(to_device(heads_CLN), to_device(position_C)),
                to_device(starts, np.int32),
                site=site,
                joins=joins(starts, chunk.stack.layers - apart),
                value=chunk.objective.value,
            )
            values_BC = chunk.devices.fetch(values_CB).astype(np.float64).T
        return values_BC[:, np.concatenate(list(map(is_new, numbers)))]

    def _run_copies(self, group: EditGroup, values: SiteValues, copies: np.ndarray) -> np.ndarray:
        """Return the objective `[G,B]` of some copies, run together."""
        chunk = self.chunk
        edits = EditedCopies(to_device(group.heads[copies]), to_device(group.position[copies]))
        with detecting_out_of_memory():
            values_GB = edited(
                chunk.network,
                chunk.batch,
                chunk.reads,
                self._unedited,
                values,
                chunk.devices.copies(edits),
                group.layer,
                site=group.site,
                value=chunk.objective.value,
            )
            return chunk.devices.fetch(values_GB).astype(np.float64)
