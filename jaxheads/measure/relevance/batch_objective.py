"""An objective of a model on a batch, which methods of relevance explain chunk by chunk.

Dimension key: E examples, T positions, D model dimension, L layers, N heads, R rows read.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...execution.cost import FLOAT, gradient_bytes
from ...execution.lengths import GRADIENT_RUNS, Lengths
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...objectives import Objective, Reads
from ...reads import needs_derivative, reads_of
from ..per_example import per_example, silent
from .backward_pass import BackwardPass, EntryMix, Watch, backward, entries, float64_allowed, mixed_objective
from .rules import Rules


class Attributions(NamedTuple):
    """Relevance of one batch or chunk.

    Attributes:
        value: the objective, `[E]`, if there is one.
        tokens: by stream, each position's relevance, `[E,T]`.
        heads: each head's relevance, `[E,L,N]`, if there is any.
        change: the objective less that of the baseline, `[E]`, for methods that have a baseline.
    """

    value: np.ndarray | None
    tokens: dict[str, np.ndarray]
    heads: np.ndarray | None
    change: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name: `value`, `tokens-…` by stream, `heads`, `change`."""
        tokens = {f"tokens-{stream}": tokens_ET for stream, tokens_ET in self.tokens.items()}
        others = {"value": self.value, "heads": self.heads, "change": self.change}
        return {**tokens, **{name: array for name, array in others.items() if array is not None}}


@dataclass(frozen=True)
class BatchObjective:
    """An objective of a model on a batch.

    Attributes:
        mixes: by stream, a mix at its entry, for all of the batch's examples.
    """

    model: Model
    batch: Batch
    objective: Objective
    reads: Reads
    resources: Resources
    mixes: Mapping[str, EntryMix] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, batch: Batch, objective: Objective, resources: Resources) -> "BatchObjective":
        """Check the batch and what the objective reads; raises ValueError where the model can't give it."""
        model.check(batch)
        needs_derivative(objective)
        return cls(model, batch, objective, reads_of(objective, model, batch), resources)

    def padded(self) -> "BatchObjective":
        """Return the objective on a batch of a common length; see `Lengths`."""
        reads, batch = Lengths(self.model).read(self.objective, self.reads, self.batch, runs=GRADIENT_RUNS)
        return replace(self, batch=batch, reads=reads)

    def take(self, examples: ArrayLike) -> "BatchObjective":
        """Return the objective on these examples of the batch."""
        index = np.asarray(examples)
        mixes = {
            stream: EntryMix(base if len(base) == 1 else base[index], share[index])
            for stream, (base, share) in self.mixes.items()
        }
        return replace(self, batch=self.batch.take(index), reads=self.reads.take(index), mixes=mixes)

    def mixed(self, mixes: Mapping[str, EntryMix]) -> "BatchObjective":
        """Return the objective of runs whose entries are mixed so."""
        return replace(self, mixes=mixes)

    def backward(self, *, rules: Rules | None = None, watch: tuple[Watch, ...] = ()) -> BackwardPass:
        """Run one forward and backward pass of all examples at once; arrays are NumPy's, in float32.

        Rules that divide by numbers near 0 are computed in float64.
        """
        wide = rules is not None and rules.divides_by_small_numbers
        with float64_allowed() if wide else nullcontext():
            result = backward(*self._placed(), value=self.objective.value, rules=rules, watch=watch, wide=wide)
            return jax.tree.map(lambda array: self.fetch(array).astype(np.float32), result)

    def value(self) -> np.ndarray:
        """Return the objective `[E]`, float64, chunk by chunk."""

        def compute(examples: np.ndarray) -> dict[str, jax.Array]:
            return {"value": mixed_objective(*self.take(examples)._placed(), value=self.objective.value)}

        size, resources = self.example_bytes(), silent(self.resources)
        return per_example("value", ("value",), compute, self.model, self.batch, resources, example_bytes=size)["value"]

    def entries(self) -> dict[str, np.ndarray]:
        """Return each stream's entry before it is mixed, `[E,T,D]`."""
        network, batch, *_ = self._placed()
        return {stream: self.fetch(x_ETD) for stream, x_ETD in entries(network, batch).items()}

    def fetch(self, array: jax.Array) -> np.ndarray:
        """Return an array from the devices."""
        return self.resources.devices.fetch(array)

    def _placed(self) -> tuple[Network, Batch, Reads, dict[str, EntryMix]]:
        """Return network, batch, reads and mixes on the devices, examples split over them."""
        devices = self.resources.devices
        batch, reads = devices.examples((self.batch, self.reads))
        mixes = {
            stream: EntryMix(
                devices.everywhere(base) if len(base) == 1 else devices.examples(base), devices.examples(share)
            )
            for stream, (base, share) in self.mixes.items()
        }
        return self.resources.network(self.model), batch, reads, mixes

    def example_bytes(self, watched: int = 0, rules: Rules | None = None) -> int:
        """Estimate the bytes that one example's forward and backward pass needs.

        Args:
            watched: numbers that an example keeps in each layer beside the stream.
            rules: of the pass; it takes twice the bytes in float64.
        """
        network = self.model.network
        kept = sum(stack.layers for stack in network.stacks) * watched
        wide = rules is not None and rules.divides_by_small_numbers
        return (1 + wide) * gradient_bytes(network, self.batch, self.reads, remat=True) + FLOAT * kept
