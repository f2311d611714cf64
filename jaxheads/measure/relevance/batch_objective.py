"""An objective of a model on a batch, which methods of relevance explain chunk by chunk.

Dimension key: E examples, T positions, D model dimension, L layers, N heads, R rows read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective, Reads
from ..per_example import per_example
from .backward_pass import BackwardPass, EntryMix, Watch, backward, mixed_objective
from .rules import Rules


class Attributions(NamedTuple):
    """Relevance of one batch or chunk.

    Attributes:
        value: the objective, `[E]`.
        tokens: by stream, each position's relevance, `[E,T]`.
        heads: each head's relevance, `[E,L,N]`, if there is any.
    """

    value: np.ndarray
    tokens: dict[str, np.ndarray]
    heads: np.ndarray | None


@dataclass(frozen=True)
class BatchObjective:
    """An objective of a model on a batch.

    Attributes:
        memory: bytes for what is held at once, about.
        mixes: by stream, a mix at its entry, for all of the batch's examples.
    """

    model: Model
    batch: Batch
    objective: Objective
    reads: Reads
    memory: int
    mixes: Mapping[str, EntryMix] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, batch: Batch, objective: Objective, memory: int) -> "BatchObjective":
        """Check the batch and what the objective reads; raises ValueError where the model can't give it."""
        model.check(batch)
        return cls(model, batch, objective, objective.reads(model, batch), memory)

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
        """Run one forward and backward pass of all examples at once; arrays are NumPy's."""
        network, value = self.model.network, self.objective.value
        result = backward(network, self.batch, self.reads, self.mixes, value=value, rules=rules, watch=watch)
        return jax.tree.map(partial(np.asarray, dtype=np.float32), result)

    def value(self) -> np.ndarray:
        """Return the objective `[E]`, float64, chunk by chunk."""

        def compute(examples: np.ndarray) -> jax.Array:
            chunk = self.take(examples)
            network, value = chunk.model.network, chunk.objective.value
            return mixed_objective(network, chunk.batch, chunk.reads, chunk.mixes, value=value)

        return per_example(compute, len(self.batch), example_bytes=self.example_bytes(), memory=self.memory)

    def example_bytes(self, watched: int = 0) -> int:
        """Estimate the bytes that one example's forward and backward pass needs.

        Args:
            watched: numbers that an example keeps in each layer beside the stream.
        """
        stored, widest = 0, 0
        for stack in self.model.network.stacks:
            T, S, D = stack.queries.count(self.batch), stack.keys.count(self.batch), stack.width
            inner = sum(leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks) if leaf.ndim == 3)
            stored += stack.layers * (T * D + watched)
            widest = max(widest, T * (8 * D + 4 * inner + 6 * stack.heads * S))
        unembedding, R = self.model.network.unembedding, self.reads.rows.shape[1]
        assert unembedding is not None, "the objective has checked it"
        columns = len(unembedding.weight) if self.reads.columns is None else self.reads.columns.shape[1]
        return 4 * (stored + widest + 4 * R * columns)
