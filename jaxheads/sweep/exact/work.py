"""The work of an exact sweep on one chunk of examples: edited copies, as many at a time as memory takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...execution.batching import Later, OutOfMemory, detecting_out_of_memory, in_turn, is_new
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
from .plan import EditGroup, Plan, all_together, choose_chunks, keeps_anchors, tokens_together, worthwhile_starts
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
    anchored = keeps_anchors(costs, stack, groups, resources)
    costs = replace(costs, cached=costs.cached + costs.anchors) if anchored else costs
    placement = resources.placement(model)
    chunks = choose_chunks(costs, groups, len(batch), resources, together=tokens_together(costs, placement))
    together = all_together(chunks, costs, groups, len(batch))
    chunks, upward = (chunks, False) if together is None else (together, True)
    plan = Plan(tuple(groups), costs, len(batch), chunks, placement, source.count, source.runs, upward, anchored)
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

    def baselines(self) -> Later[np.ndarray]:
        """Send the unedited run, and the run that values come from if there is one: their objective."""
        sent = self._baselines
        return lambda: np.stack([self.chunk.devices.fetch(value_B).astype(np.float64) for value_B in sent])

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send some groups of copies: their effects `[B,cells]`; `[B,cells,…]` of an objective with values `[B,…]`."""
        unedited_B = self._baselines[0]
        edited_BC = np.zeros((len(self.chunk.batch), len(group.cells), *unedited_B.shape[1:]))
        # One run waits for its turn and no more: results that wait hold memory, and errors that come late, too.
        last = in_turn(self._steps(group.key, edited_BC))

        def effects_BC() -> np.ndarray:
            last()
            # In float64 the difference of two float32 objectives is exact.
            return edited_BC / len(self._values) - self.chunk.devices.fetch(unedited_B).astype(np.float64)[:, None]

        return effects_BC

    @cached_property
    def _baselines(self) -> list[jax.Array]:
        other = self.source.baseline(self.chunk, self._values)
        return [self._unedited.value] if other is None else [self._unedited.value, other]

    @cached_property
    def _unedited(self) -> UneditedRun:
        chunk = self.chunk
        # Cached from the first column, whatever the groups' own starts: one compilation and one run for all of them.
        site, value = self.plan.groups[0].site._replace(first=0), chunk.objective.value
        with detecting_out_of_memory():
            arguments = chunk.network, chunk.batch, chunk.reads
            return run_unedited(*arguments, site=site, value=value, keep_anchors=self.plan.anchored)

    @cached_property
    def _values(self) -> list[SiteValues]:
        return list(self.source.of(self.chunk._replace(z=self._unedited.z)))

    def _steps(self, groups: Sequence[EditGroup], edited_BC: np.ndarray) -> Iterator[Later[None]]:
        """Send all copies; each step adds their objective to their cells of `edited_BC`."""
        if not self.fitting.upward:
            yield from self._group_steps(groups, self._values, edited_BC)
            return
        for values in self._values:
            yield self._sent_upward(groups, values, edited_BC)

    def _group_steps(
        self, groups: Sequence[EditGroup], sources: Sequence[SiteValues], edited_BC: np.ndarray
    ) -> Iterator[Later[None]]:
        """Send the copies group by group, as many at a time as fit, with each of some sources' values."""
        column = 0
        for group in groups:
            own_BC = edited_BC[:, column : column + len(group)]
            column += len(group)
            for values in sources:
                first = 0
                while first < len(group):
                    # Memory that ended in the step before leaves fewer copies for this one.
                    size = self.plan.chunks.copies_together(len(group), self.fitting.copies)
                    copies = np.arange(first, min(first + size, len(group)))
                    yield self._sent(group, values, copies, size, own_BC)
                    first += size

    def _sent_upward(self, groups: Sequence[EditGroup], values: SiteValues, edited_BC: np.ndarray) -> Later[None]:
        """Send the copies of all groups in one pass; where they don't fit, go group by group from then on."""
        sent = _sending(lambda: self._run_upward(groups, values))
        new_C = np.concatenate([is_new(copies) for copies in self._filled(groups)])

        def add() -> None:
            try:
                with detecting_out_of_memory():
                    values_CB = self.chunk.devices.fetch(sent())
            except OutOfMemory:
                self.fitting.upward = False
                in_turn(self._group_steps(groups, [values], edited_BC))()
            else:
                edited_BC[:] += values_CB[new_C].swapaxes(0, 1)

        return add

    def _filled(self, groups: Sequence[EditGroup]) -> list[np.ndarray]:
        """Return the numbers of each group's copies, filled up."""
        # Each group by itself: where copies join must not depend on how many positions the longest text has.
        return [next(self.plan.chunks.copy_chunks(len(group))) for group in groups]

    def _sent(
        self, group: EditGroup, values: SiteValues, copies: np.ndarray, size: int, edited_BC: np.ndarray
    ) -> Later[None]:
        """Send copies, filled up to `size` with the last; the function that waits adds their objective to the cells."""

        def add() -> None:
            try:
                with detecting_out_of_memory():
                    values_GB = self.chunk.devices.fetch(sent())
            except OutOfMemory:
                self._send_fewer(group, values, copies, size, edited_BC)
            else:
                edited_BC[:, copies] += values_GB[: len(copies)].swapaxes(0, 1)

        # Every run has the shape of the others, which compiled once.
        filled = copies[np.minimum(np.arange(size), len(copies) - 1)]
        sent = _sending(lambda: self._run_copies(group, values, filled))
        return add

    def _send_fewer(
        self, group: EditGroup, values: SiteValues, copies: np.ndarray, size: int, edited_BC: np.ndarray
    ) -> None:
        """Run copies again, fewer of them together, now and from then on.

        Raises:
            OutOfMemory: where one copy of these examples does not fit: `run_chunks` halves the examples.
        """
        with detecting_out_of_memory():
            # JAX computes asynchronously: it may have been the unedited run that did not fit.
            jax.block_until_ready((self._unedited, self._values))
        chunks = self.plan.chunks
        fewer = chunks.fewer(size)
        if fewer == size:
            raise OutOfMemory
        self.fitting.copies = min(self.fitting.copies, fewer)
        for part in np.split(copies, range(fewer, len(copies), fewer)):
            self._sent(group, values, part, fewer, edited_BC)()

    def _run_upward(self, groups: Sequence[EditGroup], values: SiteValues) -> jax.Array:
        """Send several groups' copies, filled up, in one pass through all layers: their objective `[C,B]`."""
        chunk, site, numbers = self.chunk, groups[0].site, self._filled(groups)
        filled = list(zip(groups, numbers, strict=True))
        heads_CLN = np.concatenate([group.heads[copies] for group, copies in filled])
        position_C = np.concatenate([group.position[copies] for group, copies in filled])
        starts = np.repeat([group.layer for group in groups], list(map(len, numbers)))
        # Where the objective reads rows, the last layer runs at these alone, apart from the others.
        apart = rows_read(chunk.network, stream_of(chunk.network, site.stack), chunk.reads) is not None
        return edited_upward(
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

    def _run_copies(self, group: EditGroup, values: SiteValues, copies: np.ndarray) -> jax.Array:
        """Send some copies, run together: their objective `[G,B]`."""
        chunk = self.chunk
        edits = EditedCopies(to_device(group.heads[copies]), to_device(group.position[copies]))
        return edited(
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


def _sending(send: Callable[[], jax.Array]) -> Callable[[], jax.Array]:
    """Send work to the devices; return the function that gives its result, or raises that it did not fit."""
    try:
        with detecting_out_of_memory():
            sent = send()
    except OutOfMemory as error:
        # Mended when its turn comes: the run before it still holds memory.
        return partial(_raise, error)
    return lambda: sent


def _raise(error: Exception) -> jax.Array:
    raise error
