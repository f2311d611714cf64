"""The loss that the lab minimises: cross-entropy at the scored positions, of classes, or between texts and images.

Dimension key: B examples, T positions.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import checked
from ..models.inputs.batch import Batch
from ..models.network import Network, forward
from ..models.sites import SiteEdit


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
