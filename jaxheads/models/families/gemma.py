"""Gemma (Gemma Team 2024): Llama with scaled embeddings, norms that multiply by 1 + scale, and larger heads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..layers import Attention, OffsetRMSNorm
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of
from .bases.reading import refuse_unknown

_ACTIVATION = "gelu_pytorch_tanh"

_DEFAULTS = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "hidden_act": _ACTIVATION,
    "tie_word_embeddings": True,
}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class GemmaConfig(GatedConfig):
    """The fields of a Hugging Face `GemmaConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gemma"

    hidden_activation: str
    attention_bias: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GemmaConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        The activation is `hidden_activation`, else `hidden_act`, whose "gelu" means Gemma's tanh approximation.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        neutral = {"use_bidirectional_attention": False}
        refuse_unknown(config, cls.fields_of_file() | {"hidden_act"}, neutral=neutral)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        act = config.get("hidden_activation") or config["hidden_act"]
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_activation=_ACTIVATION if act == "gelu" else act,
            attention_bias=config.get("attention_bias", False),
            **decoder_head(config, "Gemma", cls.class_heads, padding=0),
        )


class GemmaDecoder(GatedDecoder):
    """A decoder with scaled embeddings and norms that multiply by 1 + scale.

    Args:
        config: a `GatedConfig` with `hidden_activation`.
        attention: see `GatedDecoder`.
        more: other arguments of `GatedDecoder`.
    """

    def __init__(self, config: Any, attention: Callable[..., Attention], *, rngs: nnx.Rngs, **more: Any):
        c = config

        def norm(rngs: nnx.Rngs) -> OffsetRMSNorm:
            del rngs
            return OffsetRMSNorm(c.hidden_size, c.rms_norm_eps)

        super().__init__(c, attention, norm=norm, act=c.hidden_activation, rngs=rngs, **more)

    def embed_tokens(self, ids: Array) -> Array:
        x = self.embed(ids)
        # The scale is rounded to the weights' dtype, as it was in training: in bfloat16, 55.4 is 55.5.
        return x * jnp.asarray(math.sqrt(self.config.hidden_size), x.dtype)


class Gemma(GemmaDecoder):
    """A pre-norm decoder with scaled embeddings, rotary positions, grouped queries and a gated MLP."""

    config_type = GemmaConfig

    def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs):
        super().__init__(config, partial(attention_of, config, bias=config.attention_bias), rngs=rngs)

    @staticmethod
    def table(config: GemmaConfig) -> Table:
        """Return the table of a Gemma checkpoint's tensors, which are named like Llama's."""
        return gated_table(config, biases="QKVO" if config.attention_bias else "")
