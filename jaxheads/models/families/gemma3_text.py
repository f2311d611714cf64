"""Gemma 3 (Gemma Team 2025): sandwich blocks, normed queries and keys, a rotary base for each layer type."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..layers import Attention, OffsetRMSNorm
from ..loading.weights import Table
from ..positions import Rotary
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    FULL,
    HEAD_NORMS,
    GatedConfig,
    attention_of,
    common,
    gated_table,
    layer_types_of,
    window_of,
    window_settings,
)
from .bases.layer_rotaries import rotaries_by_type, rotary_settings
from .bases.reading import refuse_unknown
from .gemma2 import IGNORED, SANDWICH_NORMS, SandwichDecoder

_OLD = frozenset(("rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"))
"""Fields of transformers 4 that `layer_types` and `rope_parameters` by layer type have replaced."""

_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
"""transformers' defaults of absent fields, which are many in the configs of models for images."""


@dataclass(frozen=True)
class Gemma3TextConfig(GatedConfig):
    """The fields of a Hugging Face `Gemma3TextConfig` that affect the computation; `head` is "lm" or "none".

    `rotary` belongs to layers without a window, `local_rotary` to layers with a window.
    """

    model_type: ClassVar[str] = "gemma3_text"

    hidden_activation: str
    attention_bias: bool
    query_pre_attn_scalar: float
    final_logit_softcapping: float | None
    sliding_window: int | None
    layer_types: tuple[str, ...]
    local_rotary: Rotary

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Gemma3TextConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or layer types
                that don't fit the window.
        """
        # The cap on scores is a field that transformers reads and then leaves unused in this family.
        neutral = {"use_bidirectional_attention": False, "attn_logit_softcapping": None}
        refuse_unknown(config, (cls.fields_of_file() - {"local_rotary"}) | IGNORED | _OLD, neutral=neutral)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        bases = config.get("rope_theta") or 1e6, config.get("rope_local_base_freq") or 1e4
        rotary, local = rotaries_by_type(config, fields["head_dim"], fields["max_position_embeddings"], bases)
        return cls(
            **fields,
            rotary=rotary,
            local_rotary=local,
            hidden_activation=config.get("hidden_activation") or "gelu_pytorch_tanh",
            attention_bias=config.get("attention_bias", False),
            query_pre_attn_scalar=config["query_pre_attn_scalar"],
            final_logit_softcapping=config.get("final_logit_softcapping"),
            sliding_window=window_of(config),
            layer_types=layer_types_of(config, lambda layer: (layer + 1) % pattern != 0),
            **decoder_head(config, "Gemma3Text", cls.class_heads, padding=0, language_model="Gemma3ForCausalLM"),
        )


class Gemma3Text(SandwichDecoder):
    """A decoder of sandwich blocks with normed queries and keys, and another rotary base in layers with a window."""

    config_type = Gemma3TextConfig

    def __init__(self, config: Gemma3TextConfig, *, rngs: nnx.Rngs):
        c = config

        def attention(rngs: nnx.Rngs, settings: Mapping[str, Array]) -> Attention:
            return attention_of(
                c,
                rngs,
                settings,
                bias=c.attention_bias,
                scale=c.query_pre_attn_scalar**-0.5,
                q_norm=OffsetRMSNorm(c.head_dim, c.rms_norm_eps),
                k_norm=OffsetRMSNorm(c.head_dim, c.rms_norm_eps),
            )

        rotaries = [c.rotary if kind == FULL else c.local_rotary for kind in c.layer_types]
        settings = rotary_settings(rotaries, c.rotary.dimensions)
        super().__init__(c, attention, settings=settings | (window_settings(c) or {}), rngs=rngs)

    @staticmethod
    def table(config: Gemma3TextConfig) -> Table:
        """Return the table of a Gemma 3 checkpoint's tensors."""
        return gemma3_table(config)


def gemma3_table(config: Gemma3TextConfig, root: str = "model") -> Table:
    """Return the table of the language model's tensors; all names but the head's begin with `root`."""
    biases = "QKVO" if config.attention_bias else ""
    return gated_table(config, norms=SANDWICH_NORMS | HEAD_NORMS, biases=biases, root=root)
