"""Runs of the model in which only a circuit is kept, and all other heads or edges are ablated.

Dimension key: E examples of a batch, G circuits, L layers, N heads, U senders, V receivers, T positions, D model
dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import nearest, one_of
from ...execution.batching import Chunks, Later, detecting_out_of_memory, equal_chunks, is_new, run_chunks
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...programs import compiled, to_device
from ...progress import Advance
from ...reads import reads_of
from ..exact.engine import Site
from ..exact.mean_groups import Labels, MeanGroups, Means, check_labels, leave_own_out, read_labels, sum_groups
from ..exact.patch import OtherRuns
from ..exact.plan import EditGroup
from ..exact.replacement import METHODS, Replacement
from ..exact.work import ValueSource, exact
from ..grid import Grid
from ..pairs import check_pair, first_change
from ..question import run_question
from .components import Components
from .edges import run_circuits, run_graph
from .graph import Graph, graph_of
from .work import edge_chunks

HEAD_ABLATIONS = ("patching", *METHODS)
EDGE_ABLATIONS = ("patching", "zero", "mean")

COPIES = 16
"""The most circuits of heads that are run together, as edited copies of the batch."""


class KeptRuns(Protocol):
    """Runs of one batch in which circuits are kept."""

    @property
    def about(self) -> dict[str, Any]:
        """Words for the provenance."""
        ...

    @property
    def identity(self) -> Any:
        """Arrays that the objective depends on, beside model and batch."""
        ...

    def values(self, kept: np.ndarray) -> np.ndarray:
        """Return the objective `[G,E]` of circuits, each a bool grid of the components that are kept."""
        ...


@dataclass(frozen=True)
class Ablation:
    """The ablation of all components that are not kept; `jaxheads.circuit` explains the fields."""

    method: str
    reference: Batch | None = None
    per_position: bool | None = None
    groups: ArrayLike | None = None
    reference_groups: ArrayLike | None = None
    donors: int = 1
    seed: int = 0

    def runs(
        self, model: Model, components: Components, batch: Batch, objective: Objective, resources: Resources
    ) -> KeptRuns:
        """Return the runs of a batch with this ablation; nothing runs yet.

        Raises:
            ValueError: for an ablation that heads or edges don't have, or a batch, reference or groups that don't fit.
        """
        known = HEAD_ABLATIONS if components.graph is None else EDGE_ABLATIONS
        if self.method not in known:
            raise ValueError(
                f"ablation: {components.kind} that are not kept are ablated by {', '.join(known)}; "
                f"got {self.method!r}{nearest(self.method, known)}"
            )
        if self.method == "patching":
            if self.reference is None:
                raise ValueError("patching takes what is not kept from a corrupt run: give its inputs as reference=")
            if self.per_position or self.groups is not None:
                raise ValueError("patching takes each example's own counterpart; positions and groups are for means")
            check_pair(model, batch, self.reference)
        if components.graph is not None:
            return self._edge_runs(model, components.stack, batch, objective, resources)
        return self._head_runs(model, components.stack, batch, objective, resources)

    def _head_runs(
        self, model: Model, stack: Stack, batch: Batch, objective: Objective, resources: Resources
    ) -> "HeadRuns":
        if self.method == "patching":
            assert self.reference is not None
            source, first = OtherRuns(self.reference), first_change(stack, batch, self.reference)
            about = {"ablation": self.method}
            return HeadRuns(model, stack, batch, objective, resources, source, first, about, self.reference)
        labels = read_labels(self.groups, self.reference_groups)
        replacement = Replacement(
            model, stack, resources, self.method, self.reference, self.per_position, labels, self.donors, self.seed
        )
        replacement = replacement.settled(batch)
        about = replacement.about | replacement.counted(batch)
        about = {"ablation": about.pop("method"), **about}
        # One source serves all circuits: a reference's means are taken once.
        source = replacement.of(batch)
        return HeadRuns(model, stack, batch, objective, resources, source, 0, about, replacement.identity)

    def _edge_runs(
        self, model: Model, stack: Stack, batch: Batch, objective: Objective, resources: Resources
    ) -> "EdgeRuns":
        labels = read_labels(self.groups, self.reference_groups)
        # A mean is taken over the batch itself where the user names no other; patching needs a counterpart.
        own = self.reference is None and self.method == "mean"
        corrupt = batch if own else self.reference
        means = {"per_position": self.per_position, "labels": labels, "own": own}
        return EdgeRuns(model, stack, batch, corrupt, objective, self.method, resources, **means)


@dataclass(frozen=True, eq=False)
class HeadRuns:
    """Runs in which only some heads are kept, by the engine of exact sweeps.

    Attributes:
        source: what the outputs of other heads are replaced by.
        first: the first column that a replacement can change.
    """

    model: Model
    stack: Stack
    batch: Batch
    objective: Objective
    resources: Resources
    source: ValueSource
    first: int
    about: dict[str, Any]
    identity: Any

    def values(self, kept: np.ndarray) -> np.ndarray:
        """Return the objective `[G,E]` of each circuit, bool `[G,L,N]`."""
        question = exact(
            self.model,
            self.stack,
            self.batch,
            self.objective,
            reads_of(self.objective, self.model, self.batch),
            (Grid(("circuit",), (len(kept),)), self._groups(~kept)),
            self.source,
            self.resources,
            identity=(),
            about={},
        )
        # Without a journal: the evaluator writes whole chunks of circuits, by what they keep.
        effects = run_question(question)
        return (effects.baseline[:, None] + effects.effects).T

    def _groups(self, ablated_GLN: np.ndarray) -> tuple[EditGroup, ...]:
        """Return the circuits as edited copies, in groups of one size, so that one compilation serves them all."""
        layers_GL = np.any(ablated_GLN, axis=2)
        # A circuit of all heads edits nothing; started at the last layer it costs least.
        start_G = np.where(np.any(layers_GL, axis=1), np.argmax(layers_GL, axis=1), self.stack.layers - 1)
        # A group starts at its first edited layer: copies that start alike are put together.
        order = np.argsort(start_G, kind="stable")
        site = Site(self.stack.name, "z", self.first, later=True)
        return tuple(
            EditGroup(site, int(start_G[copies[0]]), ablated_GLN[copies], np.full(len(copies), -1, np.int32), copies)
            for copies in np.split(order, range(COPIES, len(order), COPIES))
        )


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """Runs in which only some edges are kept; the others carry outputs from another run.

    Attributes:
        corrupt: the batch of the other run, or whose mean is taken; None for "zero".
        ablation: what the other edges carry, as in `keep_edges`.
        per_position: of means, as in `ablate`.
        labels: groups of the clean batch's examples and of the corrupt one's, or None.
        own: whether the corrupt batch is the clean one: each example is then left out of its own means.
    """

    model: Model
    stack: Stack
    clean: Batch
    corrupt: Batch | None
    objective: Objective
    ablation: str
    resources: Resources
    per_position: bool | None = None
    labels: Labels | None = None
    own: bool = False

    def __post_init__(self) -> None:
        one_of("ablation", self.ablation, EDGE_ABLATIONS)
        if self.corrupt is None and self.ablation != "zero":
            raise ValueError(f"ablation={self.ablation!r} takes what other edges carry from a corrupt batch; got none")
        self.model.check(self.clean)
        if self.corrupt is not None and self.ablation == "patching":
            check_pair(self.model, self.clean, self.corrupt)
        elif self.corrupt is not None:
            self.model.check(self.corrupt)
        if self.ablation != "mean" and self.labels is not None:
            raise ValueError(f"groups are what means are taken over; ablation={self.ablation!r} takes none")
        if self.ablation == "mean":
            # Means of too few examples are refused now, before anything runs.
            self._means.index(self.stack.queries.of(self.clean), self._own_labels)

    @property
    def about(self) -> dict[str, Any]:
        """Words for the provenance."""
        about: dict[str, Any] = {"ablation": self.ablation}
        if self.ablation == "mean":
            least = self._means.least_examples(self.stack.queries.of(self.clean), self._own_labels) - self.own
            about |= {"means": self._means.layout, "mean_examples": least}
        return about

    @property
    def identity(self) -> Any:
        """Arrays that the objective depends on, beside the clean batch."""
        return self.corrupt, self.labels

    @cached_property
    def graph(self) -> Graph:
        """The graph of the stack's stream."""
        return graph_of(self.model, self.stack)

    def values(self, kept: np.ndarray, advance: Advance = lambda _: None) -> np.ndarray:
        """Return the objective `[G,E]` of each circuit, bool `[G,U,V]`; pairs that are no edges don't count.

        Args:
            advance: is called with the number of (circuit, example) pairs just run.

        Raises:
            ValueError: for circuits of another shape or dtype.
            MemoryError: if not even one example fits the device.
        """
        kept_GUV = self._checked(kept)
        reads, chunks = reads_of(self.objective, self.model, self.clean), self._chunks(self.clean, len(kept_GUV))
        network, devices = self.resources.network(self.model), self.resources.devices
        stack, value = self.stack.name, self.objective.value
        values_GE = np.empty((len(kept_GUV), len(self.clean)))

        def run(examples: np.ndarray) -> Iterator[Later[None]]:
            batch, own_reads = devices.examples((self.clean.take(examples), reads.take(examples)))
            with detecting_out_of_memory():
                # The other run is the same for all circuits of a chunk of examples.
                other_UBTD = self._carried(examples)

            def put(circuits: np.ndarray, values: Array) -> None:
                with detecting_out_of_memory():
                    values_GE[np.ix_(circuits, examples)] = devices.fetch(values)
                advance(len(np.unique(circuits)) * len(np.unique(examples)))

            for circuits in equal_chunks(len(kept_GUV), chunks.copies):
                cut_GVU = np.swapaxes(~kept_GUV[circuits] & self.graph.exists, 1, 2).astype(np.float32)
                cut_GVU = devices.copies(cut_GVU)
                with detecting_out_of_memory():
                    values = run_circuits(network, batch, own_reads, cut_GVU, other_UBTD, stack=stack, value=value)
                yield partial(put, circuits, values)

        run_chunks(chunks, len(self.clean), run)
        return values_GE

    def _carried(self, examples: np.ndarray) -> Array:
        """Return what edges that are not kept carry in these examples, `[U,B|1,T|1,D]`."""
        devices = self.resources.devices
        if self.ablation == "zero":
            return devices.everywhere(np.zeros((len(self.graph.senders), 1, 1, self.stack.width), np.float32))
        if self.ablation == "patching":
            return self._outputs(examples)
        means, group_BT = self._mean_outputs, devices.examples(to_device(self._index[examples]))
        if not self.own:
            means_UPD = means.values
            return means_UPD[:, group_BT] if means_UPD.shape[1] > 1 else means_UPD[:, None]
        real_BT = devices.examples(self.stack.queries.of(self.clean.take(examples)).mask)
        tokens_P = devices.everywhere(to_device(self._means.tokens))
        return leave_own_out(means, self._outputs(examples), group_BT, real_BT, tokens_P)

    def _outputs(self, examples: np.ndarray) -> Array:
        """Return the senders' outputs in some examples of the corrupt batch, `[U,B,T,D]`."""
        assert self.corrupt is not None
        batch = self.resources.devices.examples(self.corrupt.take(examples))
        return run_graph(self.resources.network(self.model), batch, stack=self.stack.name).sender_outputs

    @cached_property
    def _means(self) -> MeanGroups:
        """The groups of the corrupt batch's tokens that share a mean."""
        assert self.corrupt is not None
        check_labels(self.labels, self.clean, self.corrupt)
        axis = self.stack.queries
        positions = axis.of(self.corrupt), axis.of(self.clean)
        return MeanGroups.choose(*positions, self.labels, per_position=self.per_position, own=self.own)

    @cached_property
    def _index(self) -> np.ndarray:
        """The group of each position of the clean batch, `[E,T]`."""
        return self._means.index(self.stack.queries.of(self.clean), self._own_labels)

    @property
    def _own_labels(self) -> np.ndarray | None:
        return None if self.labels is None else self.labels[0]

    @cached_property
    def _mean_outputs(self) -> Means:
        """The senders' mean outputs over the real tokens of each group, `[U,P,D]`."""
        assert self.corrupt is not None
        devices, size = self.resources.devices, len(self._means.tokens)
        sums_2UPD = np.zeros((2, len(self.graph.senders), size, self.stack.width))
        for examples in self._chunks(self.corrupt, 1).example_chunks(len(self.corrupt)):
            # Padding, and examples that only fill up a chunk, count for nothing.
            mask_BT = np.asarray(self.stack.queries.of(self.corrupt.take(examples)).mask)
            real_BT = mask_BT & is_new(examples)[:, None]
            group_BT = to_device(self._means.groups[examples])
            inputs = devices.examples((group_BT, real_BT))
            sums_2UPD += devices.fetch(_sum_groups(self._outputs(examples), *inputs, groups=size))
        finite_UPD = sums_2UPD[0] / np.maximum(self._means.tokens, 1)[None, :, None]
        return devices.everywhere(Means(finite_UPD.astype(np.float32), sums_2UPD[1].astype(np.float32)))

    def _chunks(self, batch: Batch, circuits: int) -> Chunks:
        """Return how many examples, and how many circuits of each, run together."""
        senders = len(self.graph.senders)
        # A circuit holds its own changes (U), and of one layer's R receivers the streams they read, as normed and
        # projected. An example holds the other run's outputs, and those of `run_graph` while it stacks them (2 U).
        return edge_chunks(
            self.stack,
            batch,
            self.resources,
            copies=circuits,
            copy_streams=senders + 6 * self.graph.receivers_a_layer,
            example_streams=2 * senders,
        )

    def _checked(self, kept: np.ndarray) -> np.ndarray:
        kept, shape = np.asarray(kept), self.graph.exists.shape
        if kept.dtype != bool or kept.ndim != 3 or kept.shape[1:] != shape or not len(kept):
            raise ValueError(
                f"kept must be bool [circuits, senders, receivers], at least one circuit by {shape}; "
                f"got {kept.dtype} {kept.shape}"
            )
        return kept


_sum_groups = compiled(sum_groups, static_argnames="groups")
