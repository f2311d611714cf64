"""ViT (Dosovitskiy et al. 2021), and DeiT (Touvron et al. 2021) with a distillation token beside CLS."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..blocks import PreNormBlock
from ..layers import Attention, PlainMLP, layer_norm
from ..loading.weights import Rule, Table, dense, norm
from ..patches import without_first_axis
from ..unembedding import Unembedding
from .bases.class_heads import ClassHead, class_rules, labels_of
from .bases.image_encoder import (
    ImageEncoder,
    attention_rules,
    embedding_rules,
    image_size_of,
    live_names,
    patch_size_of,
)
from .bases.reading import head_of, refuse_unknown, required


@dataclass(frozen=True)
class ViTConfig:
    """The fields of a Hugging Face `ViTConfig` that affect the computation; `head` is "classes" or "none"."""

    model_type: ClassVar[str] = "vit"
    heads: ClassVar[Mapping[str, str]] = {"ViTModel": "none", "ViTForImageClassification": "classes"}
    vocab_size: ClassVar[None] = None
    max_position_embeddings: ClassVar[None] = None

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    image_size: tuple[int, int]
    patch_size: int
    num_channels: int
    qkv_bias: bool
    num_labels: int
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        fields = set(cls.__dataclass_fields__) - {"head"}
        unused = {"encoder_stride", "pooler_output_size", "pooler_act"}  # for masked image models, and for the pooler
        refuse_unknown(config, fields | unused)
        width, layers, heads, inner = required(
            config, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
        )
        return cls(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            hidden_act=config.get("hidden_act", "gelu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-12),
            image_size=image_size_of(config, 224),
            patch_size=patch_size_of(config, 16),
            num_channels=config.get("num_channels", 3),
            qkv_bias=config.get("qkv_bias", True),
            num_labels=labels_of(config),
            head=head_of(config, cls.heads),
        )


class DeiTConfig(ViTConfig):
    """The fields of a Hugging Face `DeiTConfig` that affect the computation.

    `head` may also be "teacher": the mean of two classifiers, which read CLS and the distillation token.
    """

    model_type = "deit"
    heads: ClassVar = {
        "DeiTModel": "none",
        "DeiTForImageClassification": "classes",
        "DeiTForImageClassificationWithTeacher": "teacher",
    }


class ViT(ImageEncoder):
    """A pre-norm encoder of patches with learned positions."""

    config_type = ViTConfig
    others_named: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        c, D = config, config.hidden_size
        self.config = c

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            heads, biases = c.num_attention_heads, "QKVO" if c.qkv_bias else "O"
            return PreNormBlock(
                layer_norm(D, c.layer_norm_eps, rngs),
                Attention(D, heads, D // heads, bias=biases, rngs=rngs),
                layer_norm(D, c.layer_norm_eps, rngs),
                PlainMLP(D, c.intermediate_size, c.hidden_act, rngs=rngs),
            )

        self._build(block, self.others_named, 1 + len(self.others_named), rngs)

    @staticmethod
    def table(config: ViTConfig) -> Table:
        """Return the table of a ViT checkpoint's tensors."""
        return _table(config, "vit", [])


class DeiT(ViT):
    """ViT with a distillation token."""

    config_type = DeiTConfig
    others_named = ("distillation",)

    def __init__(self, config: DeiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.distillation = self._classifier(rngs) if config.head == "teacher" else None

    def _classifier(self, rngs: nnx.Rngs) -> ClassHead | None:
        c = self.config
        return None if c.head == "none" else ClassHead(c.num_labels, c.hidden_size, rngs=rngs)

    @property
    def unembedding(self) -> Unembedding | None:
        """The classifier; the mean of two is a single one that reads the features of both positions joined."""
        if self.classifier is None or self.distillation is None:
            return super().unembedding
        heads = self.classifier.unembedding, self.distillation.unembedding
        weight = jnp.concatenate([head.weight for head in heads], axis=1) / 2
        first, second = (head.bias for head in heads)
        return Unembedding(weight, None if first is None or second is None else (first + second) / 2)

    def reads(self, positions: int) -> list[int]:
        """Return the positions that the classifiers read: CLS, or CLS and the distillation token."""
        del positions
        return [0] if self.distillation is None else [0, 1]

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream; for two classifiers, that of their two positions joined, `[B,1,2D]`."""
        return self._joined(super().features(x_BTD))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return self._joined(super().with_frozen_statistics(x, whole))

    def _joined(self, normed_BRD: Array) -> Array:
        return normed_BRD if self.distillation is None else normed_BRD.reshape(len(normed_BRD), 1, -1)

    @staticmethod
    def table(config: DeiTConfig) -> Table:
        """Return the table of a DeiT checkpoint's tensors."""
        distillation = [without_first_axis("deit.embeddings.distillation_token", "others")]
        if config.head == "teacher":
            distillation += class_rules("cls_classifier", "classifier")
            distillation += class_rules("distillation_classifier", "distillation")
        return _table(config, "deit", distillation)


def _table(config: ViTConfig, prefix: str, distillation: list[Rule]) -> Table:
    """Return the table of both families' tensors."""
    here, at = "encoder.blocks", f"{prefix}.encoder.layer.{{layer}}"
    rules: list[Rule] = [
        *embedding_rules(prefix),
        *distillation,
        *attention_rules(config, at),
        *norm(f"{at}.layernorm_before", f"{here}.attention_norm"),
        *norm(f"{at}.layernorm_after", f"{here}.mlp_norm"),
        *dense(f"{at}.intermediate.dense", f"{here}.mlp.up"),
        *dense(f"{at}.output.dense", f"{here}.mlp.down"),
    ]
    passed_over = {
        rf"{prefix}\.embeddings\.mask_token": "for training on masked patches",
        rf"{prefix}\.pooler\..*": "the last hidden state does not pass through it",
    }
    if config.head == "classes":
        rules += class_rules("classifier", "classifier")
    elif config.head == "none":
        passed_over[r"(cls_|distillation_)?classifier\..*"] = "a bare encoder has no head"
    return Table(tuple(rules), passed_over, live_names(prefix, split_mlp=True))
