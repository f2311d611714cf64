"""Qwen3 (Yang et al. 2025): Llama with a norm over each head's queries and keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..layers import Attention, rms_norm
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    HEAD_NORMS,
    PRE_NORMS,
    GatedConfig,
    GatedDecoder,
    attention_of,
    common,
    gated_table,
    rotary_of,
    window_settings,
)
from .bases.reading import refuse_unknown
from .qwen2 import WINDOW_FIELDS, windows_of

_DEFAULTS = {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "sliding_window": 4096}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Qwen3Config(GatedConfig):
    """The fields of a Hugging Face `Qwen3Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "qwen3"
    answers_root = "transformer"

    hidden_act: str
    attention_bias: bool
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen3Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or layer types
                that don't fit the windows.
        """
        refuse_unknown(config, cls.fields_of_file() | WINDOW_FIELDS)
        config = windows_of({**_DEFAULTS, **config})
        fields = common(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            sliding_window=config["sliding_window"],
            layer_types=config["layer_types"],
            **decoder_head(config, "Qwen3", cls.class_heads),
        )


class Qwen3(GatedDecoder):
    """A pre-norm decoder with RMSNorm, normed and then rotated queries and keys, grouped queries and a gated MLP."""

    config_type = Qwen3Config

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs):
        def attention(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            norms = {name: rms_norm(config.head_dim, config.rms_norm_eps, rngs) for name in ("q_norm", "k_norm")}
            bias = config.attention_bias
            return attention_of(config, rngs, *layer, bias=bias, **norms)

        super().__init__(config, attention, settings=window_settings(config), rngs=rngs)

    @staticmethod
    def table(config: Qwen3Config) -> Table:
        """Return the table of a Qwen3 checkpoint's tensors."""
        return gated_table(config, norms=PRE_NORMS | HEAD_NORMS, biases="QKVO" if config.attention_bias else "")
