"""The interface of the training lab's tasks: samples drawn on the device, and the least possible loss.

Dimension key: `B` examples, `T` query positions, `S` key positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import checked
from ...models.inputs.batch import Batch
from ...programs import compiled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """The data of one training step.

    Attributes:
        batch: the inputs, unchecked; its marks hold the known structure: see each task.
        targets: the right answers, int32: the token that the output at each position should give, `[B,T]` (the next
            token for a decoder, the original one for a masked language model), or a class for each example, `[B]`.
            None if texts and images are compared: the i-th text belongs to the i-th image.
        weights: float32, of the shape of `targets`: 0 at positions that are not scored. None if targets are None.
    """

    batch: Batch
    targets: Array | None
    weights: Array | None


class Task(Protocol):
    """A source of samples with known structure; every task is a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """Name for tables: "induction", "markov-3"; a control's ends in "-control"."""
        ...

    @property
    def kind(self) -> str:
        """Kind of model: decoder, encoder (masked language model), encoder-decoder, classifier or contrastive."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids, which run from 0; 0 for a task without tokens."""
        ...

    @property
    def length(self) -> int:
        """Number of positions of an example: tokens, or patches of an image."""
        ...

    @property
    def optimum(self) -> float:
        """The least expected loss, in nats per scored token: E[Σ weight · nll] / E[Σ weight].

        The predictor may use which positions are scored: if only closing brackets are, it need not predict when a
        bracket closes, only which.
        """
        ...

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors by name, such as "uniform" and "unigram"; nats per scored token."""
        ...

    def sample(self, key: Array, examples: int) -> Sample:
        """Draw examples; the key decides them, under `jit` and `vmap` too."""
        ...

    def control(self) -> "Task":
        """Return the negative control: it lacks the structure that a head would have to find, and nothing else."""
        ...

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a small model that fits, for `jaxheads.init`; `changes` replace its fields."""
        ...


class Drawn(NamedTuple):
    """One example, without an axis of examples: the arguments of Batch, targets and weights."""

    inputs: dict[str, Any]
    targets: Array
    weights: Array


class Independent:
    """A task whose examples are independent: a subclass writes `draw` for one example, `sample` maps it."""

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        raise NotImplementedError

    @checked()
    def sample(self, key: Array, examples: int) -> Sample:
        """Draw examples; the key decides them, under `jit` and `vmap` too.

        Raises:
            ValueError: for fewer than one.
        """
        if examples < 1:
            raise ValueError(f"a sample has at least one example, got {examples}")
        return _sample(self, key, examples)


@partial(compiled, static_argnums=(0, 2))
def _sample(task: Independent, key: Array, examples: int) -> Sample:
    # Always traced: a batch of concrete arrays would be copied to the host to be checked.
    return together(jax.vmap(task.draw)(jax.random.split(key, examples)))


def together(drawn: Drawn) -> Sample:
    """Make a sample of drawn examples, which have a leading axis of examples; for use under `jit`."""
    return Sample(Batch(**drawn.inputs), drawn.targets.astype(jnp.int32), drawn.weights.astype(jnp.float32))


def require(holds: bool, expected: str, got: Any) -> None:
    """Raise ValueError with the expected and the actual options, unless the condition holds."""
    if not holds:
        raise ValueError(f"{expected}; got {got}")
