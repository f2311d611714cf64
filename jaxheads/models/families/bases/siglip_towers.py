"""The towers of SigLIP (Zhai et al. 2023) for texts and for images, each also a model by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...attention.attend import attend
from ...inputs.attention_inputs import AttentionInputs
from ...inputs.axes import TOKENS, Axis
from ...inputs.batch import Batch
from ...layers import Attention, Embed, PlainMLP, layer_norm
from ...loading.weights import Rule, Table, dense, fused_bias, fused_linear, heads_out, norm, same
from ...network import Network, RunStack
from ...norms import with_frozen_statistics
from ...patches import Patches, patch_kernel
from ...stack import Stack
from ...unembedding import Unembedding
from .clip_towers import POSITION_IDS, layer_rules, text_rules, tower_stack
from .image_encoder import check_image, grid_of, image_size_of, patch_size_of
from .reading import head_of, refuse_unknown


@dataclass(frozen=True)
class _TowerConfig:
    """Config fields of both towers."""

    model_type: ClassVar[str]
    heads: ClassVar[Mapping[str, str]]

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def _read(cls, config: Mapping[str, Any], own: Mapping[str, Any], **more: Any) -> Any:
        """Read the common fields, with transformers' defaults of those that the hub's configs leave out.

        Args:
            own: fields of this tower alone, with their defaults.
            more: fields of this tower that are read by themselves.
        """
        defaults = {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            **own,
        }
        fields = {name: config.get(name, default) for name, default in defaults.items()}
        refuse_unknown({**fields, **config}, set(cls.__dataclass_fields__) | {"dropout", "tie_word_embeddings"})
        head_of(config, cls.heads)
        return cls(**fields, **more)


@dataclass(frozen=True)
class SiglipTextConfig(_TowerConfig):
    """The fields of a Hugging Face `SiglipTextConfig` that affect the computation."""

    model_type = "siglip_text_model"
    heads: ClassVar = {"SiglipTextModel": "none"}

    vocab_size: int
    max_position_embeddings: int
    projection_size: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SiglipTextConfig":
        """Read the contents of a config.json, or its `text_config`.

        Raises:
            ValueError: for a field that is not understood.
        """
        return cls._read(config, {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None})


@dataclass(frozen=True)
class SiglipVisionConfig(_TowerConfig):
    """The fields of a Hugging Face `SiglipVisionConfig` that affect the computation."""

    model_type = "siglip_vision_model"
    heads: ClassVar = {"SiglipVisionModel": "none"}
    vocab_size: ClassVar[None] = None
    max_position_embeddings: ClassVar[None] = None

    image_size: tuple[int, int]
    patch_size: int
    num_channels: int
    vision_use_head: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SiglipVisionConfig":
        """Read the contents of a config.json, or its `vision_config`.

        Raises:
            ValueError: for a field that is not understood, or images or patches that are not square.
        """
        size = image_size_of(config, 224)
        if size[0] != size[1]:
            raise ValueError(f"images of SigLIP are square; got image_size={list(size)}")
        own = {"num_channels": 3, "vision_use_head": True}
        return cls._read(config, own, image_size=size, patch_size=patch_size_of(config, 16))


class TextTower(nnx.Module):
    """A bidirectional stack over tokens, in which a text's embedding is read at its last token.

    SigLIP was trained on texts of one length, whose padding it reads as text: `model.encode` pads them so. Masked
    positions are not read, here as elsewhere.
    """

    def __init__(self, config: SiglipTextConfig, *, rngs: nnx.Rngs):
        D = config.hidden_size
        self.embed = Embed(config.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(config.max_position_embeddings, D, rngs=rngs)
        self.stack = tower_stack("text", config, rngs, causal=False)
        self.norm = layer_norm(D, config.layer_norm_eps, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Return the stream after the stack, `[B,T,D]`."""
        tokens = TOKENS.of(batch)
        x_BTD = self.embed(TOKENS.ids(batch)) + self.embed_position(tokens.positions)
        return run_stack(self.stack, x_BTD, AttentionInputs.within(tokens, causal=False))

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of each text's last token."""
        return TOKENS.of(batch).last

    def check(self, batch: Batch) -> None:
        """Accept every text."""


class VisionTower(nnx.Module):
    """A bidirectional stack over patches, without special tokens; the embedding is read at all of them."""

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs):
        D = config.hidden_size
        rows, columns = grid_of(config.image_size, config.patch_size)
        self.patches = Patches(config.patch_size, config.num_channels, D, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows * columns, D)))
        axis = Axis("patches", config.patch_size, ())
        self.stack = tower_stack("vision", config, rngs, causal=False, queries=axis)
        self.norm = layer_norm(D, config.layer_norm_eps, rngs)
        self.image_size, self.channels = config.image_size, config.num_channels

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Return the stream after the stack, `[B,T,D]`."""
        assert batch.pixels is not None, "model.check has checked the batch's fields"
        x_BTD = self.patches(batch.pixels) + self.positions[...][None]
        return run_stack(self.stack, x_BTD, AttentionInputs.within(self.stack.queries.of(batch), causal=False))

    def readout_positions(self, batch: Batch) -> Array:
        """Return the indices `[B,T]` of all patches."""
        B, T = self.stack.queries.of(batch).shape
        return jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))

    def check(self, batch: Batch) -> None:
        """Raise ValueError for images of another size."""
        check_image(batch, self.image_size, self.channels)


Tower = TextTower | VisionTower


class PoolingHead(nnx.Module):
    """An image's embedding: attention of one learnt query to all patches, then an MLP beside its own input."""

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs):
        D, heads = config.hidden_size, config.num_attention_heads
        self.probe = nnx.Param(0.02 * jax.random.normal(rngs.params(), (D,)))
        self.attention = Attention(D, heads, D // heads, bias=True, rngs=rngs)
        self.norm = layer_norm(D, config.layer_norm_eps, rngs)
        self.mlp = PlainMLP(D, config.intermediate_size, config.hidden_act, rngs=rngs)

    def __call__(self, x_BTD: Array) -> Array:
        """Return the embedding `[B,1,D]` of all positions of the normed stream."""
        B, T, D = x_BTD.shape
        probe_B1D = jnp.broadcast_to(self.probe[...].astype(x_BTD.dtype), (B, 1, D))
        nowhere = jnp.zeros((B, T), jnp.int32)  # nothing here depends on positions
        queries = self.attention.queries(probe_B1D, nowhere[:, :1])
        keys, values = self.attention.keys_values(x_BTD, nowhere)
        z_B1NH, _ = attend(queries, keys, values, jnp.ones((B, 1, T), bool), scale=self.attention.scale)
        pooled_B1D = self.attention.output(z_B1NH)
        return pooled_B1D + self.mlp(self.norm(pooled_B1D))


class OneTower(Network):
    """A tower as a model, whose output is the normed stream."""

    tower: Tower

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.tower.stack,)

    @property
    def unembedding(self) -> Unembedding | None:
        return None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return self.tower.hidden(batch, run_stack)

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream."""
        return self.tower.norm(x_BTD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return with_frozen_statistics(self.tower.norm, x, whole)

    def check(self, batch: Batch) -> None:
        self.tower.check(batch)


class SiglipText(OneTower):
    """SigLIP's tower for texts, without its head."""

    config_type = SiglipTextConfig

    def __init__(self, config: SiglipTextConfig, *, rngs: nnx.Rngs):
        self.config, self.tower = config, TextTower(config, rngs=rngs)
        self.text_length = config.max_position_embeddings

    @staticmethod
    def table(config: SiglipTextConfig) -> Table:
        """Return the table of a checkpoint of this tower."""
        del config
        passed_over = {**POSITION_IDS, r"text_model\.head\..*": "a bare tower's output is the stream"}
        rename = ((r"^(embeddings|encoder|final_layer_norm|head)\.", r"text_model.\1."),)
        return Table(tuple(text_rules("tower")), passed_over, rename)


class SiglipVision(OneTower):
    """SigLIP's tower for images, without its head."""

    config_type = SiglipVisionConfig

    def __init__(self, config: SiglipVisionConfig, *, rngs: nnx.Rngs):
        self.config, self.tower = config, VisionTower(config, rngs=rngs)

    @staticmethod
    def table(config: SiglipVisionConfig) -> Table:
        """Return the table of a checkpoint of this tower."""
        del config
        passed_over = {**POSITION_IDS, r"vision_model\.head\..*": "a bare tower's output is the stream"}
        rename = ((r"^(embeddings|encoder|post_layernorm|head)\.", r"vision_model.\1."),)
        return Table(tuple(vision_rules("tower")), passed_over, rename)


def vision_rules(path: str) -> list[Rule]:
    """Return the rules of the tower for images, whose module is at `path`."""
    at = "vision_model.embeddings"
    return [
        same(f"{at}.position_embedding.weight", f"{path}.positions"),
        patch_kernel(f"{at}.patch_embedding.weight", f"{path}.patches.kernel"),
        same(f"{at}.patch_embedding.bias", f"{path}.patches.bias"),
        *norm("vision_model.post_layernorm", f"{path}.norm"),
        *layer_rules("vision_model", path),
    ]


def pooling_rules(path: str) -> list[Rule]:
    """Return the rules of the head for images, whose module is at `path`."""
    at, letters = "vision_model.head", "QKV"
    return [
        Rule(f"{at}.probe", (f"{path}.probe",), lambda tensor, _: (tensor[0, 0],), lambda value: value[None, None]),
        fused_linear(f"{at}.attention.in_proj_weight", *(f"{path}.attention.W_{letter}" for letter in letters)),
        fused_bias(f"{at}.attention.in_proj_bias", *(f"{path}.attention.b_{letter}" for letter in letters)),
        heads_out(f"{at}.attention.out_proj.weight", f"{path}.attention.W_O"),
        same(f"{at}.attention.out_proj.bias", f"{path}.attention.b_O"),
        *norm(f"{at}.layernorm", f"{path}.norm"),
        *dense(f"{at}.mlp.fc1", f"{path}.mlp.up"),
        *dense(f"{at}.mlp.fc2", f"{path}.mlp.down"),
    ]
