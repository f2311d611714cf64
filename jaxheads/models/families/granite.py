"""Granite 3 (IBM 2024): Llama with constant factors on embeddings, scores, logits and on what layers write."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..layers import GatedMLP
from ..loading.weights import Table
from .bases.class_heads import ClassNames, decoder_head
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of
from .bases.reading import refuse_unknown

_FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


@dataclass(frozen=True)
class GraniteConfig(GatedConfig):
    """The fields of a Hugging Face `GraniteConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "granite"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {}

    hidden_act: str
    attention_bias: bool
    mlp_bias: bool
    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GraniteConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        refuse_unknown(config, cls.fields_of_file())
        fields = common(config)
        return cls(
            **fields,
            **{name: config.get(name, 1.0) for name in _FACTORS},
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            mlp_bias=config.get("mlp_bias", False),
            **decoder_head(config, "Granite", cls.class_heads),
        )


class Granite(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries and a gated MLP, with factors on all of it."""

    config_type = GraniteConfig

    def __init__(self, config: GraniteConfig, *, rngs: nnx.Rngs):
        c, written = config, config.residual_multiplier
        attention = partial(attention_of, c, bias=c.attention_bias, scale=c.attention_multiplier, gain=written)

        def mlp(rngs: nnx.Rngs) -> GatedMLP:
            return GatedMLP(c.hidden_size, c.intermediate_size, c.hidden_act, bias=c.mlp_bias, gain=written, rngs=rngs)

        super().__init__(c, attention, mlp=mlp, rngs=rngs)
        self.logits_factor = 1 / c.logits_scaling

    def embed_tokens(self, ids: Array) -> Array:
        x = self.embed(ids)
        return x * jnp.asarray(self.config.embedding_multiplier, x.dtype)

    @staticmethod
    def table(config: GraniteConfig) -> Table:
        """Return the table of a Granite checkpoint's tensors, which are named like Llama's."""
        return gated_table(config, biases="QKVO" if config.attention_bias else "", mlp_bias=config.mlp_bias)
