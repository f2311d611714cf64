"""Llama (Touvron et al. 2023), the architecture of Llama 2 and 3, SmolLM and TinyLlama too."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of
from .bases.reading import refuse_unknown


@dataclass(frozen=True)
class LlamaConfig(GatedConfig):
    """The fields of a Hugging Face `LlamaConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "llama"
    answers_root = "transformer"

    hidden_act: str
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        neutral = {"is_llama_config": True, "rope_interleaved": False}  # written by the trainer of SmolLM
        refuse_unknown(config, cls.fields_of_file(), neutral=neutral)
        fields = common(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            mlp_bias=config.get("mlp_bias", False),
            **decoder_head(config, "Llama", cls.class_heads),
        )


class Llama(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries and a gated MLP."""

    config_type = LlamaConfig

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        bias = config.attention_bias
        attention = partial(attention_of, config, bias=bias)
        super().__init__(config, attention, mlp_bias=config.mlp_bias, rngs=rngs)

    @staticmethod
    def table(config: LlamaConfig) -> Table:
        """Return the table of a Llama checkpoint's tensors."""
        return gated_table(config, biases="QKVO" if config.attention_bias else "", mlp_bias=config.mlp_bias)
