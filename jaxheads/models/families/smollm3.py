"""SmolLM3 (Bakouch et al. 2025): Llama whose every fourth layer has no rotary positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ...checks import shown
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    GatedConfig,
    GatedDecoder,
    attention_of,
    common,
    gated_table,
    layer_types_of,
    rotary_of,
    window_settings,
)
from .bases.layer_rotaries import rotary_settings
from .bases.reading import refuse_unknown

_DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class SmolLM3Config(GatedConfig):
    """The fields of a Hugging Face `SmolLM3Config` that affect the computation; `head` is "lm" or "none".

    `no_rope_layers` has a 1 for each layer with rotary positions.
    """

    model_type: ClassVar[str] = "smollm3"
    answers_root = "transformer"

    hidden_act: str
    attention_bias: bool
    mlp_bias: bool
    no_rope_layers: tuple[int, ...]
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SmolLM3Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or lists that
                do not fit the number of layers.
        """
        unused = {"pretraining_tp": config.get("pretraining_tp")}  # a hint for training
        more = {"no_rope_layer_interval", "use_sliding_window", "max_window_layers"}
        refuse_unknown(config, cls.fields_of_file() | more, neutral=unused)
        config = {**_DEFAULTS, **config}
        fields, rotating = common(config), _rotating(config)
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        config = {"rope_theta": 2e6, **config, "sliding_window": window}
        types = layer_types_of(config, lambda layer: window is not None and not rotating[layer])
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            mlp_bias=config.get("mlp_bias", False),
            no_rope_layers=rotating,
            sliding_window=window,
            layer_types=types,
            **decoder_head(config, "SmolLM3", cls.class_heads, padding=128004),
        )


def _rotating(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return a 1 for each layer with rotary positions, and a 0 for each without."""
    layers, interval = config["num_hidden_layers"], config.get("no_rope_layer_interval", 4)
    stated = config.get("no_rope_layers")
    rotating = [int((layer + 1) % interval != 0) for layer in range(layers)] if stated is None else list(stated)
    if len(rotating) < layers or not set(rotating) <= {0, 1}:
        raise ValueError(f"no_rope_layers must be 0 or 1 for each of {layers} layers, got {shown(stated)}")
    return tuple(rotating[:layers])


class SmolLM3(GatedDecoder):
    """A pre-norm decoder with RMSNorm, grouped queries and a gated MLP, and rotary positions in some layers."""

    config_type = SmolLM3Config

    def __init__(self, config: SmolLM3Config, *, rngs: nnx.Rngs):
        c = config
        rotaries = rotary_settings([c.rotary if rotates else None for rotates in c.no_rope_layers], c.rotary.dimensions)
        settings = rotaries | (window_settings(c) or {})
        attention = partial(attention_of, c, bias=c.attention_bias)
        super().__init__(c, attention, mlp_bias=c.mlp_bias, settings=settings, rngs=rngs)

    @staticmethod
    def table(config: SmolLM3Config) -> Table:
        """Return the table of a SmolLM3 checkpoint's tensors, which are named like Llama's."""
        return gated_table(config, biases="QKVO" if config.attention_bias else "", mlp_bias=config.mlp_bias)
