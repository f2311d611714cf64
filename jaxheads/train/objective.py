"""The loss that the lab minimises: cross-entropy at the scored positions, of classes, or between texts and images.

Dimension key: B examples, T positions.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import checked
from ..checks import is_whole, shown
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward
from ..models.sites import SiteEdit

SAMPLED = 8
"""Examples that a task is checked on."""


class Sample(Protocol):
    """The data of one training step, such as `jaxheads.data.tasks.Sample`.

    `targets` are int `[B,T]` (the token that each position's output should give), `[B]` (classes), or None (the i-th
    text belongs to the i-th image); `weights` have the shape of `targets` and are 0 at positions that are not scored.
    """

    @property
    def batch(self) -> Batch: ...
    @property
    def targets(self) -> Array | None: ...
    @property
    def weights(self) -> Array | None: ...


class Task(Protocol):
    """The interface of a task that the lab can train on."""

    @property
    def name(self) -> str: ...
    def sample(self, key: Array, examples: int) -> Any:
        """Draw a `Sample`; pure JAX: a key decides its sample."""
        ...


def check_task(network: Network, task: Task, examples: int) -> None:
    """Check on one small sample, without running the network, that it can be trained on a task.

    JAX would read the last embedding for an id beyond the vocabulary, and the last position beyond the context.

    Raises:
        ValueError: for sequences longer than the context, ids or targets beyond the vocabulary or the classes, a kind
            of inputs that the network does not read, or targets and weights that its output does not fit.
    """
    model = Model(network, name=f"config: the model to train on {task.name}")
    vocabulary, size = getattr(task, "vocabulary", 0), getattr(network.config, "vocab_size", None)
    if size is not None and is_whole(vocabulary) and vocabulary > size:
        raise ValueError(f"{model.name} has vocab_size {size}, but the task's token ids run from 0 to {vocabulary - 1}")
    sample = task.sample(jax.random.key(0), min(examples, SAMPLED))
    if not isinstance(sample.batch, Batch):
        raise ValueError(f"the samples of {task.name} must hold a Batch, got {shown(sample.batch)}")
    model.check(sample.batch)
    if sample.targets is None:
        return
    shape = sample.targets.shape
    positions = network.streams[-1].queries.of(sample.batch).shape
    expected = positions if network.at_every_position else positions[:1]
    if shape != expected or sample.weights is None or sample.weights.shape != shape:
        weights = None if sample.weights is None else sample.weights.shape
        raise ValueError(
            f"{model.name} has predictions of shape {expected}, so targets and weights of a sample must be, too; "
            f"got {shape} and {weights}"
        )
    scored = np.asarray(sample.targets)[np.asarray(sample.weights) != 0]
    classes = 0 if network.unembedding is None else network.unembedding.weight.shape[0]
    if scored.size and not 0 <= scored.min() <= scored.max() < classes:
        raise ValueError(
            f"{model.name} predicts {classes} tokens or classes; the targets of {task.name} run from {scored.min()} to "
            f"{scored.max()}"
        )


@checked()
def scores(network: Network, sample: Sample, edits: tuple[SiteEdit, ...] = ()) -> tuple[Array, Array]:
    """Return the mean loss in nats and the accuracy over everything scored; two float32 numbers."""
    loss_BT, hit_BT, weight_BT = each(network, sample, edits)
    total = jnp.maximum(weight_BT.sum(), 1e-9)
    return (loss_BT * weight_BT).sum() / total, (hit_BT * weight_BT).sum() / total


def each(network: Network, sample: Sample, edits: tuple[SiteEdit, ...] = ()) -> tuple[Array, Array, Array]:
    """Return loss, hit (1 if the best guess is right) and weight of each prediction; three float32 arrays of one shape.

    The shape is that of the targets, or `[2,B]` for texts and images: images to texts, texts to images.
    """
    output = network.output(forward(network, sample.batch, edits)[0], sample.batch).astype(jnp.float32)
    if sample.targets is None:
        right = jnp.arange(len(output))
        both = jnp.stack([output, output.T])
        loss_2B = -jnp.take_along_axis(jax.nn.log_softmax(both), right[None, :, None], axis=2)[..., 0]
        hit_2B = (both.argmax(axis=-1) == right[None, :]).astype(jnp.float32)
        return loss_2B, hit_2B, jnp.ones_like(loss_2B)
    assert sample.weights is not None
    loss = -jnp.take_along_axis(jax.nn.log_softmax(output), sample.targets[..., None], axis=-1)[..., 0]
    return loss, (output.argmax(axis=-1) == sample.targets).astype(jnp.float32), sample.weights.astype(jnp.float32)
