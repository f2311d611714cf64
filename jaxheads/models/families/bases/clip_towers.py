"""The towers of CLIP (Radford et al. 2021) for texts and for images, each also a model by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...blocks import PreNormBlock
from ...inputs.attention_inputs import AttentionInputs
from ...inputs.axes import TOKENS, Axis
from ...inputs.batch import Batch
from ...layers import Attention, Embed, PlainMLP, layer_norm
from ...loading.config_fields import is_whole
from ...loading.weights import Rule, Table, dense, linear, norm, projections, same
from ...network import Network, RunStack
from ...norms import with_frozen_statistics
from ...patches import Patches, patch_kernel
from ...stack import Stack
from ...unembedding import Unembedding
from .image_encoder import check_image, grid_of, image_size_of, patch_size_of
from .reading import head_of, refuse_unknown

_LEGACY_EOS = 2
"""A wrong id of the end token in the first configs; the end token is then the largest id of a text."""


@dataclass(frozen=True)
class _TowerConfig:
    """Config fields of both towers; `head` is "projection" or "none"."""

    model_type: ClassVar[str]
    heads: ClassVar[Mapping[str, str]]

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float
    projection_dim: int
    head: str

    @classmethod
    def _read(cls, config: Mapping[str, Any], sizes: Mapping[str, int], **more: Any) -> Any:
        """Read the common fields, with defaults for those that old configs leave out.

        Args:
            sizes: the names of the tower's sizes, with their defaults.
            more: fields of this tower alone.
        """
        understood = set(cls.__dataclass_fields__) - {"head"} | {"dropout", "tie_word_embeddings"}
        fields = {name: config.get(name, default) for name, default in sizes.items()}
        refuse_unknown({**fields, **config}, understood, neutral={"is_decoder": False, "add_cross_attention": False})
        return cls(
            **fields,
            **more,
            num_hidden_layers=config.get("num_hidden_layers", 12),
            hidden_act=config.get("hidden_act", "quick_gelu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            projection_dim=config.get("projection_dim", 512),
            head=head_of(config, cls.heads),
        )


@dataclass(frozen=True)
class ClipTextConfig(_TowerConfig):
    """The fields of a Hugging Face `CLIPTextConfig` that affect the computation."""

    model_type = "clip_text_model"
    heads: ClassVar = {"CLIPTextModel": "none", "CLIPTextModelWithProjection": "projection"}

    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipTextConfig":
        """Read the contents of a config.json, or its `text_config`.

        Raises:
            ValueError: for a field that is not understood, or more than one end token.
        """
        eos = config.get("eos_token_id", 49407)
        if not is_whole(eos):
            raise ValueError(f"a text's embedding is read at one end token; got eos_token_id={eos!r}")
        sizes = {
            "vocab_size": 49408,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
        }
        return cls._read(config, sizes, eos_token_id=eos)


@dataclass(frozen=True)
class ClipVisionConfig(_TowerConfig):
    """The fields of a Hugging Face `CLIPVisionConfig` that affect the computation."""

    model_type = "clip_vision_model"
    heads: ClassVar = {"CLIPVisionModel": "none", "CLIPVisionModelWithProjection": "projection"}
    vocab_size: ClassVar[None] = None
    max_position_embeddings: ClassVar[None] = None

    image_size: tuple[int, int]
    patch_size: int
    num_channels: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipVisionConfig":
        """Read the contents of a config.json, or its `vision_config`.

        Raises:
            ValueError: for a field that is not understood, or images or patches that are not square.
        """
        size = image_size_of(config, 224)
        if size[0] != size[1]:
            raise ValueError(f"images of CLIP are square; got image_size={list(size)}")
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_channels": 3}
        return cls._read(config, sizes, image_size=size, patch_size=patch_size_of(config, 32))


def tower_stack(name: str, config: Any, rngs: nnx.Rngs, **arguments: Any) -> Stack:
    """Build the pre-norm stack of a tower."""
    c, D = config, config.hidden_size

    def block(rngs: nnx.Rngs) -> PreNormBlock:
        heads = c.num_attention_heads
        return PreNormBlock(
            layer_norm(D, c.layer_norm_eps, rngs),
            Attention(D, heads, D // heads, bias=True, rngs=rngs),
            layer_norm(D, c.layer_norm_eps, rngs),
            PlainMLP(D, c.intermediate_size, c.hidden_act, rngs=rngs),
        )

    return Stack(name, c.num_hidden_layers, block, rngs=rngs, **arguments)


class TextTower(nnx.Module):
    """A causal stack over tokens, in which a text's embedding is read at its end token."""

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        D = config.hidden_size
        self.embed = Embed(config.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(config.max_position_embeddings, D, rngs=rngs)
        self.stack = tower_stack("text", config, rngs, causal=True)
        self.norm = layer_norm(D, config.layer_norm_eps, rngs)
        self.eos = config.eos_token_id

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Return the stream after the stack, `[B,T,D]`."""
        tokens = TOKENS.of(batch)
        x_BTD = self.embed(TOKENS.ids(batch)) + self.embed_position(tokens.positions)
        return run_stack(self.stack, x_BTD, AttentionInputs.within(tokens, causal=True))

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of each text's first end token (in models with a legacy config, of its largest id)."""
        ids = jnp.where(batch.mask, batch.tokens, -1)
        return jnp.argmax(ids if self.eos == _LEGACY_EOS else ids == self.eos, axis=1)

    def last_hidden(self, x_BTD: Array) -> Array:
        """Return a bare tower's output: the normed stream."""
        return self.norm(x_BTD)

    def check(self, batch: Batch) -> None:
        """Raise ValueError for a text without an end token."""
        ended = (np.asarray(batch.tokens) == self.eos) & np.asarray(batch.mask)
        without = np.flatnonzero(~ended.any(axis=1))
        if self.eos != _LEGACY_EOS and without.size:
            raise ValueError(
                f"CLIP reads a text's embedding at its end token ({self.eos}); texts {without[:8].tolist()} have none. "
                "model.encode puts it there"
            )


class VisionTower(nnx.Module):
    """A bidirectional stack over CLS and patches, normed before the first layer; the embedding is read at CLS."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        D, eps = config.hidden_size, config.layer_norm_eps
        rows, _ = grid_of(config.image_size, config.patch_size)  # images are square

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.cls, self.positions = weight(D), weight(1 + rows * rows, D)
        self.patches = Patches(config.patch_size, config.num_channels, D, bias=False, rngs=rngs)
        self.pre_norm, self.norm = layer_norm(D, eps, rngs), layer_norm(D, eps, rngs)
        axis = Axis("patches", config.patch_size, ("CLS",))
        self.stack = tower_stack("vision", config, rngs, causal=False, queries=axis)
        self.image_size, self.channels = config.image_size, config.num_channels

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Return the stream after the stack, `[B,T,D]`."""
        assert batch.pixels is not None, "model.check has checked the batch's fields"
        x_BPD = self.patches(batch.pixels)
        cls_B1D = jnp.broadcast_to(self.cls[...], (len(x_BPD), 1, x_BPD.shape[-1]))
        x_BTD = jnp.concatenate([cls_B1D, x_BPD], axis=1) + self.positions[...][None]
        context = AttentionInputs.within(self.stack.queries.of(batch), causal=False)
        return run_stack(self.stack, self.pre_norm(x_BTD), context)

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of CLS, 0."""
        assert batch.pixels is not None
        return jnp.zeros(len(batch.pixels), jnp.int32)

    def last_hidden(self, x_BTD: Array) -> Array:
        """Return a bare tower's output: the stream, not normed."""
        return x_BTD

    def check(self, batch: Batch) -> None:
        """Raise ValueError for images of another size."""
        check_image(batch, self.image_size, self.channels)


Tower = TextTower | VisionTower


class OneTower(Network):
    """A tower as a model, whose output is its last hidden state or, with a projection, embeddings `[B,P]`."""

    tower: Tower
    projection: nnx.Linear | None

    def _build(self, config: Any, tower: Tower, rngs: nnx.Rngs) -> None:
        self.config, self.tower = config, tower
        projected = config.head == "projection"
        self.projection = projection_of(config, config.projection_dim, rngs) if projected else None

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.tower.stack,)

    @property
    def unembedding(self) -> Unembedding | None:
        return None

    @property
    def at_every_position(self) -> bool:
        return self.projection is None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return self.tower.hidden(batch, run_stack)

    def features(self, x_BTD: Array) -> Array:
        """Return the last hidden state, or the projected embeddings."""
        return self.tower.last_hidden(x_BTD) if self.projection is None else self.projection(self.tower.norm(x_BTD))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        if self.projection is None:
            return super().with_frozen_statistics(x, whole)
        return self.projection(with_frozen_statistics(self.tower.norm, x, whole))

    def readout_positions(self, batch: Batch) -> Array:
        return self.tower.readout_positions(batch)

    def check(self, batch: Batch) -> None:
        if self.projection is not None or isinstance(self.tower, VisionTower):
            self.tower.check(batch)


class ClipText(OneTower):
    """CLIP's tower for texts."""

    config_type = ClipTextConfig

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        self._build(config, TextTower(config, rngs=rngs), rngs)

    @staticmethod
    def table(config: ClipTextConfig) -> Table:
        """Return the table of a checkpoint of this tower."""
        return _tower_table(config, text_rules("tower"), "text_projection", "embeddings|encoder|final_layer_norm")


class ClipVision(OneTower):
    """CLIP's tower for images."""

    config_type = ClipVisionConfig

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        self._build(config, VisionTower(config, rngs=rngs), rngs)

    @staticmethod
    def table(config: ClipVisionConfig) -> Table:
        """Return the table of a checkpoint of this tower."""
        return _tower_table(
            config, vision_rules("tower"), "visual_projection", "embeddings|encoder|pre_layrnorm|post_layernorm"
        )


def projection_of(config: ClipTextConfig | ClipVisionConfig, size: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Build the projection of a tower's embedding into the space where texts and images are compared."""
    return nnx.Linear(config.hidden_size, size, use_bias=False, rngs=rngs)


def text_rules(path: str) -> list[Rule]:
    """Return the rules of the tower for texts, whose module is at `path`."""
    at = "text_model.embeddings"
    return [
        same(f"{at}.token_embedding.weight", f"{path}.embed.embedding"),
        same(f"{at}.position_embedding.weight", f"{path}.embed_position.embedding"),
        *norm("text_model.final_layer_norm", f"{path}.norm"),
        *layer_rules("text_model", path),
    ]


def vision_rules(path: str) -> list[Rule]:
    """Return the rules of the tower for images, whose module is at `path`."""
    at = "vision_model.embeddings"
    return [
        same(f"{at}.class_embedding", f"{path}.cls"),
        same(f"{at}.position_embedding.weight", f"{path}.positions"),
        patch_kernel(f"{at}.patch_embedding.weight", f"{path}.patches.kernel"),
        *norm("vision_model.pre_layrnorm", f"{path}.pre_norm"),
        *norm("vision_model.post_layernorm", f"{path}.norm"),
        *layer_rules("vision_model", path),
    ]


POSITION_IDS = {r"(text|vision)_model\.embeddings\.position_ids": "0, 1, 2, …"}
"""Tensors of both towers that are not used, see `Table.passed_over`."""


def layer_rules(prefix: str, path: str) -> list[Rule]:
    """Return the rules of a tower's layers, whose module is at `path`."""
    here, at = f"{path}.stack.blocks", f"{prefix}.encoder.layers.{{layer}}"
    names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKV"}
    return [
        *projections({**names, "O": f"{at}.self_attn.out_proj"}, f"{here}.attention", bias=True),
        *norm(f"{at}.layer_norm1", f"{here}.attention_norm"),
        *norm(f"{at}.layer_norm2", f"{here}.mlp_norm"),
        *dense(f"{at}.mlp.fc1", f"{here}.mlp.up"),
        *dense(f"{at}.mlp.fc2", f"{here}.mlp.down"),
    ]


def _tower_table(config: ClipTextConfig | ClipVisionConfig, rules: list[Rule], projection: str, modules: str) -> Table:
    passed_over, prefix = dict(POSITION_IDS), rules[0].name.split(".")[0]
    if config.head == "projection":
        rules = [*rules, linear(f"{projection}.weight", "projection.kernel")]
    else:
        passed_over[rf"{projection}\.weight"] = "a bare tower has no projection"
    return Table(tuple(rules), passed_over, ((rf"^({modules})\.", rf"{prefix}.\1."),))
