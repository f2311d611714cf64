"""Gemma 2 (Gemma Team 2024): sandwich norms, capped scores and logits, a window in every other layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from flax import nnx

from ..blocks import SandwichBlock
from ..layers import Attention
from ..loading.weights import Table
from ..unembedding import Unembedding
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    Build,
    GatedConfig,
    attention_of,
    common,
    gated_table,
    layer_types_of,
    rotary_of,
    window_of,
    window_settings,
)
from .bases.reading import refuse_unknown
from .gemma import GemmaDecoder

IGNORED = frozenset(("hidden_act", "cache_implementation"))
"""Fields of Gemma's configs that transformers ignores: the activation is `hidden_activation`, never `hidden_act`."""

SANDWICH_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_out_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_out_norm",
}
"""Paths of a layer's norms by their names in the checkpoint."""

_DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Gemma2Config(GatedConfig):
    """The fields of a Hugging Face `Gemma2Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gemma2"

    hidden_activation: str
    attention_bias: bool
    query_pre_attn_scalar: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Gemma2Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or layer types
                that don't fit the window.
        """
        neutral = {"use_bidirectional_attention": False}
        refuse_unknown(config, cls.fields_of_file() | IGNORED, neutral=neutral)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_activation=config.get("hidden_activation") or "gelu_pytorch_tanh",
            attention_bias=config.get("attention_bias", False),
            query_pre_attn_scalar=config["query_pre_attn_scalar"],
            attn_logit_softcapping=config["attn_logit_softcapping"],
            final_logit_softcapping=config["final_logit_softcapping"],
            sliding_window=window_of(config),
            layer_types=layer_types_of(config, lambda layer: layer % 2 == 0),
            **decoder_head(config, "Gemma2", cls.class_heads, padding=0),
        )


def sandwich(norm: Build, attention: Build, mlp: Build) -> SandwichBlock:
    """Build a layer that norms what heads and MLP read and what they write."""
    return SandwichBlock(norm(), attention(), norm(), norm(), mlp(), norm())


class SandwichDecoder(GemmaDecoder):
    """A decoder of sandwich blocks with scaled embeddings, grouped queries, gated MLPs and, optionally, capped logits.

    Args:
        config: a `GatedConfig` with `hidden_activation` and `final_logit_softcapping`.
        attention: builds the attention of a layer from its random streams and, with `settings`, those of the layer.
        settings: see `Stack`.
    """

    def __init__(
        self,
        config: Any,
        attention: Callable[..., Attention],
        *,
        rngs: nnx.Rngs,
        settings: Mapping[str, np.ndarray] | None = None,
    ):
        super().__init__(config, attention, arrange=sandwich, settings=settings, rngs=rngs)

    @property
    def unembedding(self) -> Unembedding | None:
        """The unembedding, or the embedding it is tied to, with its cap; None for a bare model."""
        uncapped = super().unembedding
        if uncapped is None or self.config.head != "lm":
            return uncapped
        return uncapped._replace(cap=self.config.final_logit_softcapping)


class Gemma2(SandwichDecoder):
    """A decoder of sandwich blocks with capped scores, and with a window in every other layer."""

    config_type = Gemma2Config

    def __init__(self, config: Gemma2Config, *, rngs: nnx.Rngs):
        attention = partial(
            attention_of,
            config,
            bias=config.attention_bias,
            scale=config.query_pre_attn_scalar**-0.5,
            cap=config.attn_logit_softcapping,
        )
        super().__init__(config, attention, settings=window_settings(config), rngs=rngs)

    @staticmethod
    def table(config: Gemma2Config) -> Table:
        """Return the table of a Gemma 2 checkpoint's tensors."""
        return gated_table(config, norms=SANDWICH_NORMS, biases="QKVO" if config.attention_bias else "")
