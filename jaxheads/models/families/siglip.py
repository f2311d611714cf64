"""SigLIP (Zhai et al. 2023) and SigLIP 2 at fixed resolution (Tschannen et al. 2025): CLIP with a sigmoid for its loss.

Images are pooled by attention, texts read at their last token. Scaled cosines get a bias; the sigmoid of one is the
probability that the text belongs to the image. Output and classes are the logits before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..inputs.batch import Batch
from ..layers import UnitNorm
from ..loading.weights import Table, dense, same
from ..network import RunStack
from ..norms import with_frozen_statistics
from ..stack import take_rows
from ..unembedding import Unembedding
from .bases.clip_towers import POSITION_IDS, text_rules
from .bases.reading import head_of, inner_config, refuse_unknown
from .bases.siglip_towers import (
    OneTower,
    PoolingHead,
    SiglipTextConfig,
    SiglipVisionConfig,
    TextTower,
    Tower,
    VisionTower,
    pooling_rules,
    vision_rules,
)
from .clip import Clip, Embedded


@dataclass(frozen=True)
class SiglipConfig:
    """The fields of a Hugging Face `SiglipConfig` that affect the computation."""

    model_type: ClassVar[str] = "siglip"

    text: SiglipTextConfig
    vision: SiglipVisionConfig

    @property
    def vocab_size(self) -> int:
        """Size of the texts' vocabulary."""
        return self.text.vocab_size

    @property
    def max_position_embeddings(self) -> int:
        """Longest text, in tokens."""
        return self.text.max_position_embeddings

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SiglipConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field, here or in a tower's config, that is not understood, a vision tower without its
                head, or towers whose embeddings differ in size.
        """
        refuse_unknown(config, {"text_config", "vision_config", "tie_word_embeddings"})
        head_of(config, {"SiglipModel": "similarity"})

        def tower(name: str) -> dict[str, Any]:
            return {
                **inner_config(config, f"{name}_config"),
                "architectures": None,
                "model_type": f"siglip_{name}_model",
            }

        text, vision = SiglipTextConfig.from_hf(tower("text")), SiglipVisionConfig.from_hf(tower("vision"))
        if not vision.vision_use_head:
            raise ValueError("the siglip config says vision_use_head=False: images then have no embedding to compare")
        size = text.projection_size or text.hidden_size
        if size != vision.hidden_size:
            raise ValueError(f"embeddings of texts and images must be of one size, got {size} and {vision.hidden_size}")
        return cls(text, vision)


class TextClassifier(OneTower):
    """The tower for texts as a classifier; its classes are fixed embeddings of images, `[classes,P]`."""

    def __init__(self, config: Any, tower: Tower, head: Any, others: Array, bias: Array):
        self.config, self.tower, self.head = config, tower, head
        self.others, self.logits_bias = nnx.Param(others), nnx.Param(jnp.broadcast_to(bias, others.shape[:1]))
        self.unit = UnitNorm()

    @property
    def unembedding(self) -> Unembedding:
        """The embeddings of the classes, with the learnt bias."""
        return Unembedding(self.others[...], self.logits_bias[...])

    @property
    def at_every_position(self) -> bool:
        return False

    def readout_positions(self, batch: Batch) -> Array:
        return self.tower.readout_positions(batch)

    def features(self, x_BTD: Array) -> Array:
        """Return unit embeddings, `[B,1,P]` of the positions that are read."""
        return self.unit(self.head(self.tower.norm(x_BTD)))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        size = jnp.sqrt(jnp.square(self.head(self.tower.norm(whole))).sum(axis=-1, keepdims=True))
        return with_frozen_statistics(self.tower.norm, x, whole) @ self.head.kernel[...] / size


class ImageClassifier(TextClassifier):
    """The tower for images as a classifier; its head reads all patches together, and is no sum over heads."""

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return super(OneTower, self).with_frozen_statistics(x, whole)


class Siglip(Clip):
    """Both towers. The output is logits `[images, texts]`, or the raw embeddings if the batch has one kind."""

    config_type = SiglipConfig

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs):
        self.config: Any = config
        self.text: Any = TextTower(config.text, rngs=rngs)
        self.vision: Any = VisionTower(config.vision, rngs=rngs)
        self.text_length = config.text.max_position_embeddings
        self.text_head = nnx.Linear(config.text.hidden_size, config.vision.hidden_size, rngs=rngs)
        self.pooling = PoolingHead(config.vision, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros((1,)))
        self.logits_bias = nnx.Param(jnp.zeros((1,)))

    def hidden(self, batch: Batch, run_stack: RunStack) -> Embedded:
        """Embed the images and the texts of the batch."""

        def embed(tower: Tower, head: Any) -> Array:
            x_BTD = tower.hidden(batch, run_stack)
            rows_BR = tower.readout_positions(batch).reshape(len(x_BTD), -1)
            return head(tower.norm(take_rows(x_BTD, rows_BR)))[:, 0]

        return Embedded(
            None if batch.pixels is None else embed(self.vision, self.pooling),
            None if batch.tokens is None else embed(self.text, self.text_head),
        )

    def scaled(self, embeddings: Array) -> Array:
        return UnitNorm()(embeddings) * jnp.exp(self.logit_scale[...])[None]

    def output(self, x: Embedded, batch: Batch) -> Array:
        """Return logits `[images, texts]`, or the embeddings if the batch has one kind."""
        out = super().output(x, batch)
        return out if x.images is None or x.texts is None else out + self.logits_bias[...][None]

    def classifier(self, others: Array, *, of_images: bool) -> TextClassifier:
        bias = self.logits_bias[...]
        if of_images:
            return ImageClassifier(self.config.vision, self.vision, self.pooling, others, bias)
        classifier = TextClassifier(self.config.text, self.text, self.text_head, others, bias)
        classifier.text_length = self.text_length
        return classifier

    @staticmethod
    def table(config: SiglipConfig) -> Table:
        """Return the table of a SigLIP checkpoint's tensors."""
        del config
        rules = (
            *text_rules("text"),
            *vision_rules("vision"),
            *dense("text_model.head", "text_head"),
            *pooling_rules("pooling"),
            same("logit_scale", "logit_scale"),
            same("logit_bias", "logits_bias"),
        )
        return Table(rules, POSITION_IDS)
