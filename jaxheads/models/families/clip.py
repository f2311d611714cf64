"""CLIP (Radford et al. 2021): a tower for texts and a tower for images, whose embeddings are compared.

The towers are independent. `zero_shot` fixes the input of one, which makes a classifier of the other.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...arguments import checked
from ...programs import compiled
from ..inputs.batch import Batch
from ..layers import UnitNorm
from ..loading.weights import Table, linear, same
from ..model import Model
from ..network import Network, RunStack, forward
from ..stack import Stack
from ..unembedding import Unembedding
from .bases.clip_towers import (
    POSITION_IDS,
    ClipTextConfig,
    ClipVisionConfig,
    OneTower,
    TextTower,
    Tower,
    VisionTower,
    projection_of,
    text_rules,
    vision_rules,
)
from .bases.reading import head_of, inner_config, refuse_unknown


@dataclass(frozen=True)
class ClipConfig:
    """The fields of a Hugging Face `CLIPConfig` that affect the computation."""

    model_type: ClassVar[str] = "clip"

    text: ClipTextConfig
    vision: ClipVisionConfig
    projection_dim: int

    @property
    def vocab_size(self) -> int:
        """Size of the texts' vocabulary."""
        return self.text.vocab_size

    @property
    def max_position_embeddings(self) -> int:
        """Longest text, in tokens."""
        return self.text.max_position_embeddings

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipConfig":
        """Read the contents of a config.json.

        The oldest have each tower's fields twice; `text_config_dict` and `vision_config_dict` take precedence.

        Raises:
            ValueError: for a field, here or in a tower's config, that is not understood.
        """
        towers = {f"{tower}_config{suffix}" for tower in ("text", "vision") for suffix in ("", "_dict")}
        unused = {"logit_scale_init_value", "tie_word_embeddings"}  # the checkpoint has the learned scale
        refuse_unknown(config, towers | unused | {"projection_dim"})
        head_of(config, {"CLIPModel": "similarity"})

        def tower(name: str) -> dict[str, Any]:
            stated = f"{name}_config_dict" if config.get(f"{name}_config_dict") is not None else f"{name}_config"
            return {**inner_config(config, stated), "architectures": None, "model_type": f"clip_{name}_model"}

        return cls(
            ClipTextConfig.from_hf(tower("text")),
            ClipVisionConfig.from_hf(tower("vision")),
            config.get("projection_dim", 512),
        )


class Compared(OneTower):
    """A tower as a classifier: its classes are fixed embeddings of the other tower.

    Args:
        others: the unit embeddings of the classes, times the learned scale, `[classes,P]`.
    """

    def __init__(self, config: Any, tower: Tower, projection: nnx.Linear, others: Array):
        self.config, self.tower, self.projection = config, tower, projection
        self.others = nnx.Param(others)
        self.unit = UnitNorm()

    @property
    def unembedding(self) -> Unembedding:
        """The embeddings of the classes."""
        return Unembedding(self.others[...])

    def features(self, x_BTD: Array) -> Array:
        """Return unit embeddings."""
        return self.unit(super().features(x_BTD))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        embedded = super().features(whole)
        return super().with_frozen_statistics(x, whole) / jnp.sqrt(jnp.square(embedded).sum(axis=-1, keepdims=True))


class Embedded(NamedTuple):
    """Projected embeddings of images and texts; None for a kind that the batch lacks."""

    images: Array | None
    texts: Array | None


class Clip(Network):
    """Both towers. The output is scaled cosines `[images, texts]`, or the raw embeddings if the batch has one kind."""

    config_type = ClipConfig
    apart = True
    without_logits = "compares images with texts: fix one side with jh.zero_shot, and the other is classified"

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text, self.vision = TextTower(config.text, rngs=rngs), VisionTower(config.vision, rngs=rngs)
        self.text_projection = projection_of(config.text, config.projection_dim, rngs)
        self.visual_projection = projection_of(config.vision, config.projection_dim, rngs)
        self.logit_scale = nnx.Param(jnp.asarray(np.log(1 / 0.07), jnp.float32))

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.text.stack, self.vision.stack)

    @property
    def unembedding(self) -> Unembedding | None:
        return None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Embedded:
        """Embed the images and the texts of the batch."""

        def embed(tower: Tower, projection: nnx.Linear) -> Array:
            x_BTD = tower.hidden(batch, run_stack)
            read_BD = jnp.take_along_axis(x_BTD, tower.readout_positions(batch)[:, None, None], axis=1)[:, 0]
            return projection(tower.norm(read_BD))

        return Embedded(
            None if batch.pixels is None else embed(self.vision, self.visual_projection),
            None if batch.tokens is None else embed(self.text, self.text_projection),
        )

    def output(self, x: Embedded, batch: Batch) -> Array:
        """Return scaled cosines `[images, texts]`, or the embeddings if the batch has one kind."""
        del batch
        if x.images is None or x.texts is None:
            [alone] = [embeddings for embeddings in x if embeddings is not None]
            return alone
        return UnitNorm()(x.images) @ self.scaled(x.texts).T

    def scaled(self, embeddings: Array) -> Array:
        """Return unit embeddings times the learned scale."""
        return UnitNorm()(embeddings) * jnp.exp(self.logit_scale[...])

    def classifier(self, others: Array, *, of_images: bool) -> Network:
        """Return one tower as a classifier; its classes are unit embeddings of the other, scaled, `[classes,P]`."""
        if of_images:
            config, tower, projection = self.config.vision, self.vision, self.visual_projection
        else:
            config, tower, projection = self.config.text, self.text, self.text_projection
        return Compared(replace(config, head="projection"), tower, projection, others)

    def check(self, batch: Batch) -> None:
        if batch.tokens is not None:
            self.text.check(batch)
        if batch.pixels is not None:
            self.vision.check(batch)

    @staticmethod
    def table(config: ClipConfig) -> Table:
        """Return the table of a CLIP checkpoint's tensors."""
        del config
        rules = (
            *text_rules("text"),
            *vision_rules("vision"),
            linear("text_projection.weight", "text_projection.kernel"),
            linear("visual_projection.weight", "visual_projection.kernel"),
            same("logit_scale", "logit_scale"),
        )
        return Table(rules, POSITION_IDS)


@checked()
def zero_shot(model: Model, classes: Batch) -> Model:
    """Make a classifier of images by texts, or of texts by images: CLIP or SigLIP with the input of one tower fixed.

    Its output is the whole model's, `[images, texts]` or `[texts, images]`, and its only stack is the other tower.
    Every question for a classifier applies:
    `jh.ablate(jh.zero_shot(model, texts), images, jh.logit_difference(right, wrong))`.

    Args:
        classes: the input that is fixed, texts or images.

    Raises:
        ValueError: for another model than CLIP and SigLIP, or a batch with both texts and images, or neither.
    """
    network = model.network
    if not isinstance(network, Clip):
        raise ValueError(f"zero_shot needs a model that compares images with texts; {model.name} does not")
    model.check(classes)
    if classes.tokens is not None and classes.pixels is not None:
        raise ValueError("classes must be texts or images, to classify the other; the batch has both")
    others = _embeddings(network, classes)
    digest = hashlib.sha256(np.asarray(others).tobytes()).hexdigest()[:16]
    return replace(
        model,
        network=network.classifier(others, of_images=classes.tokens is not None),
        identity=lambda: f"{model.identity()} against {digest}",
        hf_config=None,
    )


@compiled
def _embeddings(network: Clip, batch: Batch) -> Array:
    embedded: Any = forward(network, batch)[0]
    return network.scaled(network.output(embedded, batch))
