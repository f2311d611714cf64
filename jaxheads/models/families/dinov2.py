"""DINOv2 (Oquab et al. 2024), without and with registers (Darcet et al. 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ..blocks import PreNormBlock
from ..inputs.batch import Batch
from ..layers import Attention, GatedMLP, PlainMLP, layer_norm
from ..loading.config_fields import SIZE
from ..loading.weights import Arrays, Rule, Table, dense, norm, same
from ..patches import resize_grid, without_first_axis
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

_BACKBONE = {"apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names"}
"""Fields that only choose the layers which a detector reads."""


@dataclass(frozen=True)
class Dinov2Config:
    """The fields of a Hugging Face `Dinov2Config` that affect the computation; `head` is "classes" or "none"."""

    model_type: ClassVar[str] = "dinov2"
    heads: ClassVar[Mapping[str, str]] = {"Dinov2Model": "none", "Dinov2ForImageClassification": "classes"}
    patch_size_default: ClassVar[int] = 14
    registers_default: ClassVar[int] = 0
    vocab_size: ClassVar[None] = None
    max_position_embeddings: ClassVar[None] = None

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: float
    hidden_act: str
    layer_norm_eps: float
    image_size: tuple[int, int]
    patch_size: int
    num_channels: int
    qkv_bias: bool
    use_swiglu_ffn: bool
    num_register_tokens: int
    num_labels: int
    head: str

    @property
    def intermediate_size(self) -> int:
        """The MLP's width: with SwiGLU's three matrices two thirds of it, rounded up to a multiple of 8."""
        inner = int(self.hidden_size * self.mlp_ratio)
        return (int(inner * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else inner

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or positions whose grid is not square.
        """
        fields = set(cls.__dataclass_fields__) - {"head"}
        fields -= set() if cls.registers_default else {"num_register_tokens"}
        unused = {"layerscale_value", "drop_path_rate", "use_mask_token"}  # initialisation and training
        refuse_unknown(config, fields | unused | _BACKBONE)
        width, layers, heads = required(config, "hidden_size", "num_hidden_layers", "num_attention_heads")
        height, breadth = image_size_of(config, 224)
        if height != breadth:
            raise ValueError(f"positions of {cls.model_type} lie on a square; got image_size={[height, breadth]}")
        read = cls(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            mlp_ratio=config.get("mlp_ratio", 4),
            hidden_act=config.get("hidden_act", "gelu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-6),
            image_size=(height, breadth),
            patch_size=patch_size_of(config, cls.patch_size_default),
            num_channels=config.get("num_channels", 3),
            qkv_bias=config.get("qkv_bias", True),
            use_swiglu_ffn=config.get("use_swiglu_ffn", False),
            num_register_tokens=config.get("num_register_tokens", cls.registers_default),
            num_labels=labels_of(config),
            head=head_of(config, cls.heads),
        )
        if not SIZE.fits(read.intermediate_size):
            raise ValueError(f"mlp_ratio={read.mlp_ratio} times hidden_size={width} is no size of a layer")
        return read


class Dinov2WithRegistersConfig(Dinov2Config):
    """The fields of a Hugging Face `Dinov2WithRegistersConfig` that affect the computation."""

    model_type = "dinov2_with_registers"
    heads: ClassVar = {
        "Dinov2WithRegistersModel": "none",
        "Dinov2WithRegistersForImageClassification": "classes",
    }
    patch_size_default = 16
    registers_default = 4


class Dinov2(ImageEncoder):
    """A pre-norm encoder with LayerScale for images of any size, if their sides are whole patches."""

    config_type = Dinov2Config
    antialias: ClassVar[bool] = False

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        c, D = config, config.hidden_size
        self.config = c

        def mlp(rngs: nnx.Rngs) -> nnx.Module:
            if c.use_swiglu_ffn:
                return GatedMLP(D, c.intermediate_size, "silu", bias=True, gain=True, rngs=rngs)
            return PlainMLP(D, c.intermediate_size, c.hidden_act, gain=True, rngs=rngs)

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            heads, biases = c.num_attention_heads, "QKVO" if c.qkv_bias else "O"
            return PreNormBlock(
                layer_norm(D, c.layer_norm_eps, rngs),
                Attention(D, heads, D // heads, bias=biases, gain=True, rngs=rngs),
                layer_norm(D, c.layer_norm_eps, rngs),
                mlp(rngs),
            )

        registers = tuple(f"register {number}" for number in range(c.num_register_tokens))
        self._build(block, registers, 1, rngs)

    def _classifier(self, rngs: nnx.Rngs) -> ClassHead | None:
        c = self.config
        return ClassHead(c.num_labels, 2 * c.hidden_size, rngs=rngs) if c.head == "classes" else None

    def patch_positions(self, rows: int, columns: int) -> Array:
        """Return the patches' positions, interpolated if the image's grid differs from the pre-trained one."""
        side = self.config.image_size[0] // self.config.patch_size
        grid_PD = self.positions[self.positioned :]
        if (rows, columns) == (side, side):
            return grid_PD
        grid_XYD = grid_PD.reshape(side, side, -1)
        return resize_grid(grid_XYD, rows, columns, antialias=self.antialias).reshape(rows * columns, -1)

    def reads(self, positions: int) -> list[int]:
        """Return the positions that the classifier reads: CLS and all patches."""
        return [0, *range(len(self.encoder.queries.specials), positions)]

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream; for a classifier, CLS joined with the mean of the patches, `[B,1,2D]`."""
        return self._joined(super().features(x_BTD))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return self._joined(super().with_frozen_statistics(x, whole))

    def _joined(self, normed_BRD: Array) -> Array:
        if self.classifier is None:
            return normed_BRD
        return jnp.concatenate([normed_BRD[:, :1], normed_BRD[:, 1:].mean(axis=1, keepdims=True)], axis=-1)

    def check(self, batch: Batch) -> None:
        assert batch.pixels is not None, "the model has checked what the batch has"
        height, width, channels = batch.pixels.shape[1:]
        size, expected = self.config.patch_size, self.config.num_channels
        if height % size or width % size or channels != expected:
            raise ValueError(
                f"pixels must be [examples, height, width, {expected}] with sides of whole patches of {size} pixels; "
                f"got {batch.pixels.shape}. Resize or crop the images: model.encode does"
            )

    @staticmethod
    def table(config: Dinov2Config) -> Table:
        """Return the table of a DINOv2 checkpoint's tensors."""
        return _table(config, "dinov2", [])


class Dinov2WithRegisters(Dinov2):
    """DINOv2 with registers between CLS and the patches; registers have no position."""

    config_type = Dinov2WithRegistersConfig
    antialias = True

    @staticmethod
    def table(config: Dinov2WithRegistersConfig) -> Table:
        """Return the table of the tensors of a checkpoint with registers."""
        prefix = "dinov2_with_registers"
        return _table(config, prefix, [without_first_axis(f"{prefix}.embeddings.register_tokens", "others")])


def _table(config: Dinov2Config, prefix: str, registers: list[Rule]) -> Table:
    """Return the table of both families' tensors."""
    here, at = "encoder.blocks", f"{prefix}.encoder.layer.{{layer}}"
    rules: list[Rule] = [
        *embedding_rules(prefix),
        *registers,
        *attention_rules(config, at),
        *norm(f"{at}.norm1", f"{here}.attention_norm"),
        *norm(f"{at}.norm2", f"{here}.mlp_norm"),
        same(f"{at}.layer_scale1.lambda1", f"{here}.attention.gain"),
        same(f"{at}.layer_scale2.lambda1", f"{here}.mlp.gain"),
    ]
    if config.use_swiglu_ffn:
        gate, up = f"{here}.mlp.gate", f"{here}.mlp.up"
        rules += [
            _stacked(f"{at}.mlp.weights_in.weight", f"{gate}.kernel", f"{up}.kernel"),
            _stacked(f"{at}.mlp.weights_in.bias", f"{gate}.bias", f"{up}.bias"),
            *dense(f"{at}.mlp.weights_out", f"{here}.mlp.down"),
        ]
    else:
        rules += dense(f"{at}.mlp.fc1", f"{here}.mlp.up")
        rules += dense(f"{at}.mlp.fc2", f"{here}.mlp.down")
    passed_over = {rf"{prefix}\.embeddings\.mask_token": "for training on masked patches"}
    if config.head == "classes":
        rules += class_rules("classifier", "classifier")
    else:
        passed_over[r"classifier\..*"] = "a bare encoder has no head"
    return Table(tuple(rules), passed_over, live_names(prefix))


def _stacked(name: str, first: str, second: str) -> Rule:
    """Map two matrices (or biases) stacked along their rows, stored `[2 * out(, in)]`."""

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        half = shapes[0][-1]
        return tensor[:half].T, tensor[half:].T

    def write(*values: Any) -> Any:
        join = np.concatenate if isinstance(values[0], np.ndarray) else jnp.concatenate
        return join([value.T for value in values])

    return Rule(name, (first, second), read, write)
