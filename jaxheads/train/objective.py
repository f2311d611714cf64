"""What is minimised: cross-entropy at the scored positions, of classes, or between texts and images."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ..models.inputs.batch import Batch
from ..models.network import Network, forward
from ..models.sites import SiteEdit


class Sample(Protocol):
    """What a step sees; `jaxheads.data.tasks.Sample` is one.

    `targets` are int `[B,T]` (the token that each position's output should give), `[B]` (classes), or None (the i-th
    text belongs to the i-th image); `weights`, of the same shape, are 0 where nothing is scored.
    """

    @property
    def batch(self) -> Batch: ...
    @property
    def targets(self) -> Array | None: ...
    @property
    def weights(self) -> Array | None: ...


class Task(Protocol):
    """What the lab needs of a task."""

    @property
    def name(self) -> str: ...
    def sample(self, key: Array, examples: int) -> Any:
        """A `Sample`; pure JAX: the same key, the same sample."""
        ...


def scores(network: Network, sample: Sample, edits: tuple[SiteEdit, ...] = ()) -> tuple[Array, Array]:
    """Mean loss in nats, and accuracy, over what is scored; two numbers, float32."""
    loss_BT, right_BT, weight_BT = each(network, sample, edits)
    total = jnp.maximum(weight_BT.sum(), 1e-9)
    return (loss_BT * weight_BT).sum() / total, (right_BT * weight_BT).sum() / total


def each(network: Network, sample: Sample, edits: tuple[SiteEdit, ...] = ()) -> tuple[Array, Array, Array]:
    """Of each scored thing: its loss, whether the best guess is right, and its weight; float32 of one shape."""
    output = network.output(forward(network, sample.batch, edits)[0], sample.batch).astype(jnp.float32)
    if sample.targets is None:
        right = jnp.arange(len(output))
        both = jnp.stack([output, output.T])  # images to texts, texts to images
        loss_2B = -jnp.take_along_axis(jax.nn.log_softmax(both), right[None, :, None], axis=2)[..., 0]
        hits_2B = (both.argmax(axis=-1) == right[None, :]).astype(jnp.float32)
        return loss_2B, hits_2B, jnp.ones_like(loss_2B)
    assert sample.weights is not None
    loss = -jnp.take_along_axis(jax.nn.log_softmax(output), sample.targets[..., None], axis=-1)[..., 0]
    return loss, (output.argmax(axis=-1) == sample.targets).astype(jnp.float32), sample.weights.astype(jnp.float32)
