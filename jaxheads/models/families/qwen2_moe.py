"""Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024): Qwen2 with mixtures of experts and an expert of all tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.config_fields import is_whole
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import attention_of, common, gated_table, layer_types_of, rotary_of, window_settings
from .bases.reading import refuse_unknown
from .bases.routed_decoder import (
    EXPERT_FIELDS,
    RoutedConfig,
    RoutedDecoder,
    expert_rules,
    joined_expert_rules,
    mlp_rules,
    routing,
)
from .qwen2 import WINDOW_FIELDS

_DEFAULTS = {
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "intermediate_size": 5632,
}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Qwen2MoeConfig(RoutedConfig):
    """The fields of a Hugging Face `Qwen2MoeConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "qwen2_moe"

    qkv_bias: bool
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen2MoeConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, layer types
                that don't fit the windows, or more experts of a token than there are.
        """
        if not config.get("use_sliding_window") and is_whole(config.get("sliding_window"), 0, 0):
            config = {**config, "sliding_window": None}  # transformers 5 writes 0 for none
        refuse_unknown(config, cls.fields_of_file() - {"dense_layers"} | WINDOW_FIELDS | EXPERT_FIELDS)
        config = _windows({**_DEFAULTS, **config})
        fields = common(config)
        sizes = {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}
        return cls(
            **fields,
            **routing(config, **sizes, num_experts=60, num_experts_per_tok=4, norm_topk_prob=False),
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            qkv_bias=config.get("qkv_bias", True),
            sliding_window=config["sliding_window"],
            layer_types=config["layer_types"],
            **decoder_head(config, "Qwen2Moe", cls.class_heads),
        )


def _windows(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with `layer_types` spelt out, and `sliding_window` None unless it is used.

    If it is used, every other one of the first `max_window_layers` layers has a window, the first layer among them.
    """
    window = config["sliding_window"] if config.get("use_sliding_window") else None
    windowed = 0 if window is None else config.get("max_window_layers", 28)
    config = {**config, "sliding_window": window}
    return {**config, "layer_types": layer_types_of(config, lambda layer: layer % 2 == 0 and layer < windowed)}


class Qwen2Moe(RoutedDecoder):
    """A pre-norm decoder like Qwen2, with mixtures of gated MLPs beside one gated MLP of all tokens."""

    config_type = Qwen2MoeConfig

    def __init__(self, config: Qwen2MoeConfig, *, rngs: nnx.Rngs):
        attention = partial(attention_of, config, bias="QKV" if config.qkv_bias else False)
        super().__init__(config, attention, settings=window_settings(config), rngs=rngs)

    @staticmethod
    def table(config: Qwen2MoeConfig) -> Table:
        """Return the table of a Qwen2-MoE checkpoint's tensors, with experts one by one or joined."""
        return qwen_moe_table(config, biases="QKV" if config.qkv_bias else "")


def qwen_moe_table(config: RoutedConfig, **more: Any) -> Table:
    """Return the table of a checkpoint whose experts are named like Qwen's; `more` goes to `gated_table`."""
    at = f"{config.root}.layers.{{layer}}.mlp"
    matrices = {matrix: f"{at}.experts.{{expert}}.{matrix}_proj" for matrix in ("gate", "up", "down")}
    return gated_table(
        config,
        mlp=[*mlp_rules(config, at), *expert_rules(matrices, config.dense_layers)],
        alternatives=joined_expert_rules(f"{at}.experts", config.dense_layers),
        **more,
    )
