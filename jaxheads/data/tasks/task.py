"""What a task of the training lab is: samples drawn on the device, and the loss that nobody can beat.

Dimension key: `B` examples, `T` query positions, `S` key positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ...models.inputs.batch import Batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """What a step of training sees.

    Attributes:
        batch: the inputs, unchecked; its marks hold what is known of the answer: see each task.
        targets: what is to be predicted, int32: at each position `[B,T]` the token that the output there should give
            (the next one in a decoder, the original one in a masked language model), or one class each, `[B]`. None
            where texts and images are compared: the i-th text belongs to the i-th image.
        weights: float32, of the shape of `targets`: 0 where nothing is scored. None where targets are.
    """

    batch: Batch
    targets: Array | None
    weights: Array | None


class Task(Protocol):
    """A source of samples with known structure. All are frozen dataclasses: their fields are their options."""

    @property
    def name(self) -> str:
        """For tables: "induction", "markov-3"; a control's ends in "-control"."""
        ...

    @property
    def kind(self) -> str:
        """How the model is trained: "decoder", "encoder" (masked language model), "encoder-decoder", "classifier" or
        "contrastive"."""
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids run from 0 to vocabulary - 1; 0 where there are none."""
        ...

    @property
    def length(self) -> int:
        """Positions of a sample: tokens, or patches of an image."""
        ...

    @property
    def optimum(self) -> float:
        """The least expected loss, in nats per scored token: E[Σ weight · nll] / E[Σ weight].

        What is scored is known to whoever predicts: a task that scores nothing but closing brackets asks which, not
        when.
        """
        ...

    @property
    def anchors(self) -> Mapping[str, float]:
        """Other losses, by what their predictor knows: "uniform", "unigram"; in the same unit."""
        ...

    def sample(self, key: Array, examples: int) -> Sample:
        """So many examples; the same for the same key, under `jit` and `vmap` too."""
        ...

    def control(self) -> "Task":
        """The negative control: the same in all but the structure that a head would have to find."""
        ...

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """What `jaxheads.init` makes a small model of that fits; `changes` are fields of that config."""
        ...


class Drawn(NamedTuple):
    """One example, without an axis of examples: the arguments of Batch, among them `marks`; targets and weights."""

    inputs: dict[str, Any]
    targets: Array
    weights: Array


class Independent:
    """A task whose examples are drawn each for itself: what it says of one, `draw`, `sample` does for many."""

    def draw(self, key: Array) -> Drawn:
        """One example."""
        raise NotImplementedError

    def sample(self, key: Array, examples: int) -> Sample:
        """So many examples; the same for the same key, under `jit` and `vmap` too.

        Raises:
            ValueError: for less than one.
        """
        if examples < 1:
            raise ValueError(f"a sample has at least one example, got {examples}")
        return _sample(self, key, examples)


@partial(jax.jit, static_argnums=(0, 2))
def _sample(task: Independent, key: Array, examples: int) -> Sample:
    # Always traced: a batch of concrete arrays would be copied to the host to be checked.
    return together(jax.vmap(task.draw)(jax.random.split(key, examples)))


def together(drawn: Drawn) -> Sample:
    """The sample of what was drawn, with an axis of examples; for use under `jit`."""
    return Sample(Batch(**drawn.inputs), drawn.targets.astype(jnp.int32), drawn.weights.astype(jnp.float32))


def require(holds: bool, expected: str, got: Any) -> None:
    """Raise ValueError, saying what options were expected and what came, unless it holds."""
    if not holds:
        raise ValueError(f"{expected}; got {got}")
