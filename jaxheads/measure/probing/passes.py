"""Passes over sentences: sums over their units, or numbers of each sentence, chunk by chunk, in any number of them.

Dimension key: B sentences of a batch, U units, T tokens, L layers, N heads, X features with a constant, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from ...execution.batching import Later, detecting_out_of_memory, is_new, run_chunks
from ...execution.cost import FLOAT
from ...execution.resources import Resources
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.batch import Batch
from ...models.inputs.labels import NOTHING
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.stack import Stack
from ...progress import Advance
from ..example_chunks import choose_chunks, run_examples
from .features import Inputs, Of, Probe, columns, feature_count, program
from .solving import Moments
from .units import At, Units, token_shares

Add = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Reading:
    """A model, sentences and their units: all that the passes over them have in common.

    Attributes:
        tasks: for each task the class of each unit, by sentence; the first has the units' own.
    """

    model: Model
    stack: Stack
    sentences: Sentences
    units: Units
    of: Of
    at: At
    tasks: Sequence[Sequence[np.ndarray]]
    resources: Resources
    advance: Advance = field(repr=False)

    @property
    def size(self) -> int:
        """The number of classes of a task."""
        return len(self.units.names)

    @property
    def grid(self) -> tuple[int, int]:
        """The numbers of layers and of probes in a layer."""
        return self.stack.layers, columns(self.stack, self.of)

    def batches(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yield sentences in batches of nearly equal lengths: their indices, and what a program reads."""
        for own, batch in SentenceBatches(self.model, self.sentences.take(indices.tolist())):
            yield indices[own], self._inputs(indices[own], batch)

    def _inputs(self, indices: np.ndarray, batch: Batch) -> Inputs:
        units, width = self.units, self.units.width(batch)
        classes = np.stack([units.array(rows, indices, width) for rows in self.tasks], axis=-1)
        words = None
        if self.of == "pattern":
            room = Units.width(Units(True, (), (), ()), batch)
            shares, words = token_shares(batch, self.at, room), token_shares(batch, "mean", room) > 0
        else:
            shares = token_shares(batch, self.at, width if units.of_words else None)
        # A word that shares its only token with another has none of its own.
        present: Any = shares.any(axis=-1)
        present = present if present.shape[1] == width else present.any(axis=1, keepdims=True)
        classes = np.where(present[..., None], classes, NOTHING)
        return Inputs(batch.model_inputs, shares, classes, None if words is None else words.astype(np.float32))

    def sums(self, name: str, kind: Literal["moments", "gradient"], indices: np.ndarray, probe: Probe) -> np.ndarray:
        """Return a program's sums over the units of these sentences, float64 `[L,N,X,…]`; `name` is for the journal."""
        total: Any = 0.0
        for number, (own, inputs) in enumerate(self.batches(indices)):
            journal = self._journal(inputs, probe)
            total = total + journal.part(f"{name}-{number}", lambda inputs=inputs: self.added(kind, inputs, probe))
            self.advance(len(own))
        return total

    def added(self, kind: Literal["moments", "gradient"], inputs: Inputs, probe: Probe) -> np.ndarray:
        """Return a program's sums over the units of one batch."""
        total, devices, compute = np.zeros(()), self.resources.devices, self._compute(kind, probe)

        def run(examples: np.ndarray) -> Iterator[Later[None]]:
            with detecting_out_of_memory():
                array = compute(self._taken(inputs, examples))

            def finish() -> None:
                nonlocal total
                with detecting_out_of_memory():
                    total = total + devices.fetch(array).astype(np.float64)

            yield finish

        run_chunks(self._chunks(inputs), len(inputs.shares), run)
        return total

    def right(
        self, indices: np.ndarray, probe: Probe, add: Callable[[np.ndarray, np.ndarray, np.ndarray], None]
    ) -> None:
        """Compute which units get their class: `add` gets sentences, classes `[B,U,tasks]`, right `[B,L,N,U,tasks]`."""
        for own, inputs in self.batches(indices):
            compute = self._compute("right", probe)

            def each(examples: np.ndarray, right: np.ndarray, own: Any = own, inputs: Inputs = inputs) -> None:
                add(own[examples], np.asarray(inputs.classes)[examples], right)
                self.advance(len(examples))

            run_examples(
                self._chunks(inputs),
                len(own),
                lambda examples, inputs=inputs, compute=compute: compute(self._taken(inputs, examples)),
                each,
                resources=self.resources,
                journal=self._journal(inputs, probe),
                first=int(own[0]),
            )

    def _compute(self, kind: Literal["moments", "gradient", "right"], probe: Probe) -> Callable[[Inputs], jax.Array]:
        devices, network = self.resources.devices, self.resources.network(self.model)
        placed = devices.everywhere(jax.tree.map(lambda array: np.asarray(array, np.float32), probe))
        how = {"stack": self.stack.name, "of": self.of, "size": self.size}
        return lambda inputs: program(kind)(network, inputs, placed, **how)

    def _taken(self, inputs: Inputs, examples: np.ndarray) -> Inputs:
        """Return one chunk on devices; what only fills it up counts for nothing."""
        counted = np.where(is_new(examples)[:, None, None], inputs.classes[examples], NOTHING)
        words = None if inputs.words is None else inputs.words[examples]
        taken = Inputs(inputs.batch.take(examples), inputs.shares[examples], counted, words)
        return self.resources.devices.examples(taken)

    def _chunks(self, inputs: Inputs) -> Any:
        U, heads, T = inputs.classes.shape[1], columns(self.stack, self.of), inputs.shares.shape[2]
        size = U * heads * (feature_count(self.stack, self.of) + 2 * len(self.tasks) * self.size)
        size += inputs.shares[0].size + (3 * self.stack.heads * T * T if self.of == "pattern" else 0)
        return choose_chunks(self.resources, self.model, self.stack, inputs.batch, example_bytes=FLOAT * size)

    def _journal(self, inputs: Inputs, probe: Probe) -> Any:
        return self.resources.journal("probe", self.model, inputs, probe, self.stack.name, self.of, self.size)


def centred_moments(reading: Reading, indices: np.ndarray) -> tuple[Probe, Moments]:
    """Return the moments of these sentences about a mean of some of them, which their probe subtracts.

    Squares of a feature whose mean is far from 0 would lose the digits of its variance.
    """
    shape = (*reading.grid, feature_count(reading.stack, reading.of))
    _, inputs = next(reading.batches(indices))
    few = Moments.of(reading.added("moments", inputs, Probe(np.zeros(shape, np.float32))))
    center = few.squares[..., -1, :-1] / max(few.count, 1.0)
    probe = Probe(center.astype(np.float32))
    return probe, Moments.of(reading.sums("moments", "moments", indices, probe))
