"""OLMo 2 (OLMo Team 2025): norms of what heads and MLPs write, and of the queries and keys of all heads together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jax import Array

from ..blocks import OutputNormBlock
from ..layers import Attention, JointRMSNorm
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import Build, GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of
from .bases.reading import refuse_unknown

_NORMS = {
    "post_attention_layernorm": "attention_out_norm",
    "post_feedforward_layernorm": "mlp_out_norm",
    "self_attn.q_norm": "attention.q_norm.norm",
    "self_attn.k_norm": "attention.k_norm.norm",
}
"""Paths of a layer's norms by their names in the checkpoint."""


@dataclass(frozen=True)
class Olmo2Config(GatedConfig):
    """The fields of a Hugging Face `Olmo2Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "olmo2"

    hidden_act: str
    attention_bias: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Olmo2Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        refuse_unknown(config, cls.fields_of_file())
        fields = common({"rms_norm_eps": 1e-5, **config})
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            **decoder_head(config, "Olmo2", cls.class_heads, padding=1),
        )


class Olmo2(GatedDecoder):
    """A decoder that norms what its heads and MLPs write, with normed queries and keys and a gated MLP."""

    config_type: ClassVar[Any] = Olmo2Config

    def __init__(self, config: Olmo2Config, *, rngs: nnx.Rngs, settings: Mapping[str, np.ndarray] | None = None):
        c = config

        def attention(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            counts = {"q_norm": c.num_attention_heads, "k_norm": c.num_key_value_heads}
            norms = {name: JointRMSNorm(heads, c.head_dim, c.rms_norm_eps, rngs) for name, heads in counts.items()}
            return attention_of(c, rngs, *layer, bias=c.attention_bias, **norms)

        def arrange(norm: Build, attention: Build, mlp: Build) -> OutputNormBlock:
            return OutputNormBlock(attention(), norm(), mlp(), norm())

        super().__init__(c, attention, arrange=arrange, settings=settings, rngs=rngs)

    @staticmethod
    def table(config: Olmo2Config) -> Table:
        """Return the table of an OLMo 2 checkpoint's tensors."""
        return gated_table(config, norms=_NORMS, biases="QKVO" if config.attention_bias else "")
