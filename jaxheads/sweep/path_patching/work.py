"""The work of path patching on one chunk of examples, for the senders of one layer after the other.

Dimension key: E examples of a batch, B examples of the chunk, T positions, L layers, N heads, R receiving heads.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import one_of
from ...execution.batching import Chunks, Later, in_turn
from ...execution.cost import CostModel
from ...execution.lengths import Lengths, longer, sweep_runs
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...reads import reads_of
from ..cached_run import end_of, stream_of
from ..grid import Grid
from ..pairs import base_and_other, check_pair, first_difference
from ..question import CellGroup, Question
from .engine import PathChunk, advance_direct, run_both, send_to_each_head
from .receivers import ReceiverPositions, changing_positions, chosen_positions, layers_to
from .streams import PathSpec

AXES = ("layer", "head", "receiver_layer", "receiver_head")
"""The axes of senders, and of receivers where each has a cell of its own."""

MLPMode = Literal["recomputed", "frozen"]
MLP_MODES = ("recomputed", "frozen")


@dataclass(frozen=True)
class PathInputs:
    """A pair of batches, checked, and what paths between them need.

    Attributes:
        senders: the stack whose heads send.
        base, other: the batch whose run is edited, and the one that values come from.
        chosen: the positions that a user asked for, bool `[E,T]`.
        positions: those of them at which anything can change.
    """

    model: Model
    senders: Stack
    base: Batch
    other: Batch
    objective: Objective
    reads: Reads
    chosen: np.ndarray
    positions: ReceiverPositions
    spec: PathSpec
    resources: Resources

    @property
    def static(self) -> dict[str, Any]:
        """The engine's static arguments."""
        return {"spec": self.spec, "value": self.objective.value}

    @property
    def end(self) -> str:
        """The name of the stream's end: "logits", or "memory" where other stacks read it."""
        return end_of(self.model.network, self.senders.name)

    @property
    def columns_run(self) -> int:
        """The number of positions of a copy that are run."""
        return self.senders.queries.count(self.base) - self.spec.first

    def layers_to(self, stack: str, site: str) -> int:
        """Return how many layers after its own a sender is first read by this site of a stack: 0 or 1."""
        return layers_to(stream_of(self.model.network, self.senders.name), self.senders.name, stack, site)

    def check_rows(self) -> None:
        """Raise ValueError if the objective reads an example at none of the positions: no effect could show there."""
        if self.end == "memory":
            return
        read_ER = np.take_along_axis(self.chosen, np.asarray(self.reads.rows), axis=1)
        for weight in (self.reads.weight, self.reads.shares):
            if weight is not None:
                read_ER &= np.asarray(weight) != 0
        missed = np.flatnonzero(~read_ER.any(axis=1))
        if missed.size:
            raise ValueError(
                f"{self.objective.name} reads the logits at none of the positions in examples {missed[:8].tolist()}"
            )

    def chunks(self, copies: int, tokens: int) -> Chunks:
        """Return how many examples and edited copies run together.

        Args:
            copies: of each example and sender layer.
            tokens: positions of a copy that are run.
        """
        costs = CostModel.of(self.model, self.senders, self.base, self.reads)
        return Chunks.fitting(
            len(self.base),
            copies,
            tokens=tokens,
            # Two runs are cached for each example, and each copy has two streams.
            example_bytes=2 * costs.cached,
            copy_bytes=2 * costs.copied,
            memory=self.resources.memory,
            multiples=self.resources.devices.multiples,
        )

    def chunk(self, examples: np.ndarray) -> PathChunk:
        """Run both batches for these examples."""
        network, devices = self.resources.network(self.model), self.resources.devices
        fields = self.base.model_inputs, self.other.model_inputs, self.reads, self.positions
        batch, other, reads, positions = devices.examples(tuple(field.take(examples) for field in fields))
        return PathChunk(network, batch, reads, run_both(network, batch, other, reads, **self.static), positions)


def path_inputs(
    model: Model,
    senders: Stack,
    batches: Iterable[tuple[Batch, Batch, Objective]],
    *,
    direction: str,
    mlps: str,
    positions: ArrayLike | None,
    resources: Resources,
) -> Iterator[PathInputs]:
    """Check each pair of batches, and yield what its paths need; see `jaxheads.paths`.

    Raises:
        ValueError: for an unknown option, a model that compares the ends of several streams, batches or positions that
            do not fit, or an objective that the model can't give.
    """
    one_of("mlps", mlps, MLP_MODES)
    if model.network.apart:
        raise ValueError(
            f"paths end where one stream is read; {model.name} compares the ends of several. Fix the others with "
            "jh.zero_shot, and ask about its model"
        )
    lengths = Lengths(model)
    for clean, corrupt, objective in batches:
        base, other = base_and_other(direction, clean, corrupt)
        check_pair(model, clean, corrupt, objective)
        chosen_ET = chosen_positions(positions, senders.queries.of(base))
        reads, runs = reads_of(objective, model, base), sweep_runs(senders.layers * senders.heads)
        reads, base, other = lengths.read(objective, reads, base, other, runs=2 * runs)
        chosen_ET = longer(chosen_ET, senders.queries.count(base))
        difference = first_difference(senders, base, other)
        changing, first = changing_positions(chosen_ET, difference, causal=senders.causal)
        spec = PathSpec(senders.name, first, mlps == "frozen")
        yield PathInputs(model, senders, base, other, objective, reads, chosen_ET, changing, spec, resources)


def path_question(
    inputs: PathInputs,
    chunks: Chunks,
    has_path: np.ndarray,
    work: Callable[[np.ndarray], "PathWork"],
    about: Mapping[str, Any],
) -> Question:
    """Return the question about these paths.

    Args:
        has_path: bool `[L,N,…]`, the cells with a path; the others are NaN.
        about: as `Question` has it.
    """
    numbers = np.arange(has_path.size).reshape(len(has_path), -1)
    layers = np.flatnonzero(has_path.reshape(numbers.shape).any(axis=1)).tolist()
    return Question(
        inputs.model,
        inputs.senders,
        inputs.base,
        inputs.objective,
        inputs.reads,
        Grid(AXES[: has_path.ndim], has_path.shape, missing=~has_path.reshape(1, -1)),
        # Senders of one layer start from one stream: they are answered together.
        [CellGroup(f"layer-{layer}", numbers[layer], layer) for layer in layers],
        chunks,
        work,
        inputs.resources,
        identity=(inputs.other, inputs.positions, repr(about)),
        about=about,
    )


@dataclass(frozen=True)
class PathWork:
    """Results of one chunk of examples; both runs are computed when first needed.

    Attributes:
        chunks: examples and copies that run together.
        examples: indices of the chunk's examples.
    """

    inputs: PathInputs
    chunks: Chunks
    examples: np.ndarray

    def baselines(self) -> Later[np.ndarray]:
        """Send both runs: their objective, `[2,B]`."""
        fetch, runs = self.inputs.resources.devices.fetch, self._chunk.runs
        return lambda: np.stack([fetch(value_B).astype(np.float64) for value_B in (runs.value, runs.other_value)])

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send the copies whose sender is in one layer: their effects `[B,cells]`."""
        values = np.full(self.shape(), np.nan)
        last, baselines = in_turn(self.steps(group.key, values)), self.baselines()

        def effects_BC() -> np.ndarray:
            last()
            return values.reshape(len(self.examples), -1) - baselines()[0][:, None]

        return effects_BC

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the objectives of one layer's senders, `[B,N,…]`."""
        raise NotImplementedError

    def steps(self, layer: int, values: np.ndarray) -> Iterator[Later[None]]:
        """Send the copies whose sender is in this layer; each step puts some of their objectives into `values`."""
        raise NotImplementedError

    @cached_property
    def _chunk(self) -> PathChunk:
        return self.inputs.chunk(self.examples)


@dataclass(frozen=True)
class SenderWork(PathWork):
    """Each sender by itself, to receivers that all receive together.

    Attributes:
        engine: from a chunk, a layer and its heads `[G]` to the objective `[G,B]`.
    """

    engine: Callable[..., Array]

    def shape(self) -> tuple[int, ...]:
        """Return `[B,N]`."""
        return len(self.examples), self.inputs.senders.heads

    def steps(self, layer: int, values: np.ndarray) -> Iterator[Later[None]]:
        """Send some heads at a time; `values` is `[B,N]`."""
        devices = self.inputs.resources.devices

        def put(heads: np.ndarray, values_GB: Array) -> None:
            values[:, heads] = devices.fetch(values_GB).T

        for heads in self.chunks.copy_chunks(self.inputs.senders.heads):
            yield partial(put, heads, self.engine(self._chunk, layer=layer, heads_G=devices.copies(heads)))


@dataclass(frozen=True)
class HeadPairWork(PathWork):
    """Each sender and each receiver by itself.

    Attributes:
        to: the receivers' stack, and what they read of the stream: `q`, `k` or `v`.
    """

    to: tuple[str, str]

    def shape(self) -> tuple[int, ...]:
        """Return `[B,N,L,R]`."""
        senders = self.inputs.senders
        return len(self.examples), senders.heads, senders.layers, self._receivers

    def steps(self, layer: int, values: np.ndarray) -> Iterator[Later[None]]:
        """Send some heads at a time, to one layer after the other; `values` is `[B,N,L,R]`, NaN without a path."""
        inputs, devices, static = self.inputs, self.inputs.resources.devices, self.inputs.static
        L, distance, together = inputs.senders.layers, inputs.layers_to(*self.to), self._receivers_together

        def put(heads: np.ndarray, receiver: int, values_GRB: Array) -> None:
            values[:, heads, receiver] = np.moveaxis(devices.fetch(values_GRB), 2, 0)

        for heads in self.chunks.copy_chunks(inputs.senders.heads):
            # The direct streams of these senders go on from layer to layer, whatever receives on the way: each layer of
            # them is computed once for all receivers.
            direct, heads_G = None, devices.copies(heads)
            for receiver in range(layer, L):
                senders = self._chunk, direct, layer, heads_G, receiver
                if receiver >= layer + distance:
                    values_GRB = send_to_each_head(*senders, to=self.to, together=together, **static)
                    yield partial(put, heads, receiver, values_GRB)
                if receiver + 1 < L:
                    direct = advance_direct(*senders, spec=inputs.spec)

    @property
    def _receivers(self) -> int:
        name, site = self.to
        return self.inputs.model.stack(name).heads_at(site)

    @property
    def _receivers_together(self) -> int:
        """The number of receivers of one sender that run together: a divisor of all, so that none is left over."""
        R, senders = self._receivers, len(next(self.chunks.copy_chunks(self.inputs.senders.heads)))
        most = max(1, self.chunks.copies // senders)
        return max(number for number in range(1, R + 1) if R % number == 0 and number <= most)
