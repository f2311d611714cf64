"""OLMo (Groeneveld et al. 2024): Llama with norms that have no parameters and, in some releases, clipped queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..layers import FixedLayerNorm
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import GatedDecoder, GatedSizes, attention_of, gated_table, rotary_of, sizes_of
from .bases.reading import refuse_unknown

_EPSILON = 1e-5
"""Epsilon of all norms; no config has it."""


@dataclass(frozen=True)
class OlmoConfig(GatedSizes):
    """The fields of a Hugging Face `OlmoConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "olmo"

    hidden_act: str
    attention_bias: bool
    clip_qkv: float | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "OlmoConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        refuse_unknown(config, cls.fields_of_file())
        fields = sizes_of(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            clip_qkv=config.get("clip_qkv"),
            **decoder_head(config, "Olmo", cls.class_heads, padding=1),
        )


class Olmo(GatedDecoder):
    """A pre-norm decoder with LayerNorm without parameters, rotary positions, grouped queries and a gated MLP."""

    config_type = OlmoConfig

    def __init__(self, config: OlmoConfig, *, rngs: nnx.Rngs):
        attention = partial(attention_of, config, bias=config.attention_bias, clip=config.clip_qkv)
        super().__init__(config, attention, norm=partial(FixedLayerNorm, config.hidden_size, _EPSILON), rngs=rngs)

    @staticmethod
    def table(config: OlmoConfig) -> Table:
        """Return the table of an OLMo checkpoint's tensors, which are named like Llama's."""
        return gated_table(config, norms={}, final_norm="", biases="QKVO" if config.attention_bias else "")
