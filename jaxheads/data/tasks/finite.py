"""Tasks whose examples end: training sets that are drawn from again and again.

Dimension key: `B` examples of a step, `E` examples of the training set.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import at_least, between, checked
from .task import Drawn, Independent, Sample, together


@checked(size=at_least(1), noise=between(0, 1))
@dataclass(frozen=True)
class FewExamples:
    """A task of which a model sees few examples, again and again: it may learn them by heart.

    Each run has a training set of its own, which its seed decides. With probability `noise` an example is the control's
    in place of the task's: of `Agreement` the same sentence, with a verb of a random number, which is wrong in half of
    such examples. Fresh examples are those of `task` itself.

    Attributes:
        task: the task of independent examples that they are of.
        size: E.
        noise: probability that an example is the control's.
    """

    task: Independent
    size: int
    noise: float = 0.0

    @property
    def name(self) -> str:
        """The task's name, the size of the training set, and its noise."""
        return f"{self.task.name}, {self.size} examples" + (f", noise {self.noise:g}" if self.noise else "")  # type: ignore[attr-defined]

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.task.vocabulary  # type: ignore[attr-defined]

    @checked()
    def of_run(self, key: Array) -> "TrainingSet":
        """Return the training set of the run with this key."""
        return TrainingSet(self, jax.random.fold_in(key, 2))

    @checked(examples=at_least(1))
    def sample(self, key: Array, examples: int) -> Sample:
        """Draw examples of the training set of seed 0, with repetition."""
        return self.of_run(jax.random.key(0)).sample(key, examples)

    @checked()
    def training_set(self, seed: int) -> tuple[Sample, np.ndarray]:
        """Return all E examples that the run of this seed is trained on, and which are the control's, bool `[E]`."""
        drawn_E, noisy_E = jax.jit(lambda: self.of_run(jax.random.key(seed)).drawn(jnp.arange(self.size)))()
        return jax.jit(together)(drawn_E), np.asarray(noisy_E)

    @checked()
    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of the task's small model; `changes` replace its fields."""
        return self.task.model_config(**changes)  # type: ignore[attr-defined]


class TrainingSet:
    """The training set of one run, whose examples are drawn anew, by their number, wherever they are needed."""

    def __init__(self, of: FewExamples, key: Array):
        self.of, self.key = of, key

    def sample(self, key: Array, examples: int) -> Sample:
        """Draw examples, with repetition."""
        return together(self.drawn(jax.random.randint(key, (examples,), 0, self.of.size))[0])

    def drawn(self, numbers_B: Array) -> tuple[Drawn, Array]:
        """Return the examples with these numbers, and which of them are the control's."""
        return jax.vmap(self._one)(numbers_B)

    def _one(self, number: Array) -> tuple[Drawn, Array]:
        key = jax.random.fold_in(self.key, number)
        noisy = jax.random.bernoulli(jax.random.fold_in(key, 1), self.of.noise)
        task: Any = self.of.task
        right, other = task.draw(key), task.control().draw(key)
        return jax.tree.map(lambda a, b: jnp.where(noisy, b, a), right, other), noisy


@checked()
@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a sample as a task: data of one's own, which `jh.train.train` draws from.

        batch = model.encode(texts)
        task = jh.data.tasks.Examples(jh.data.tasks.Sample(batch, targets, weights), name="reviews")

    Attributes:
        examples: all of them, with targets and weights.
        name: the name for tables.
    """

    examples: Sample
    name: str = "examples"

    @checked(examples=at_least(1))
    def sample(self, key: Array, examples: int) -> Sample:
        """Draw examples, with repetition."""
        numbers_B = jax.random.randint(key, (examples,), 0, len(self.examples.batch))
        return jax.tree.map(lambda values: jnp.asarray(values)[numbers_B], self.examples)
