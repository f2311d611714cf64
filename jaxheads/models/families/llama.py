"""Llama (Touvron et al. 2023) and what shares its architecture: SmolLM, TinyLlama, Llama 2 and 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of
from .bases.reading import head_of, refuse_unknown


@dataclass(frozen=True)
class LlamaConfig(GatedConfig):
    """The fields of a Hugging Face `LlamaConfig` that change what is computed; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "llama"

    hidden_act: str
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "LlamaConfig":
        """From the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a missing field, one that is not understood, or a rope type that is not covered.
        """
        neutral = {"is_llama_config": True, "rope_interleaved": False}  # written by the trainer of SmolLM
        refuse_unknown(given, cls.fields_of_file(), neutral=neutral)
        fields = common(given)
        return cls(
            **fields,
            rotary=rotary_of(given, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=given.get("hidden_act", "silu"),
            attention_bias=given.get("attention_bias", False),
            mlp_bias=given.get("mlp_bias", False),
            head=head_of(given, {"LlamaForCausalLM": "lm", "LlamaModel": "none"}),
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
        """The tensors of a Llama checkpoint."""
        return gated_table(config, biases="QKVO" if config.attention_bias else "", mlp_bias=config.mlp_bias)
