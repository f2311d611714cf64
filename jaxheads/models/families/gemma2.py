"""Gemma 2 (Gemma Team 2024): norms before and after each part, capped scores and logits, every other layer a window."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ..blocks import SandwichBlock
from ..inputs.batch import AttentionInputs, Batch
from ..layers import Attention, Embed, GatedMLP, OffsetRMSNorm
from ..loading.weights import Table
from ..network import RunStack
from ..stack import Stack
from ..unembedding import Unembedding
from .bases.decoder import Decoder
from .bases.gated_decoder import (
    GatedConfig,
    attention_of,
    common,
    gated_table,
    layer_types_of,
    rotary_of,
    window_of,
    window_settings,
)
from .bases.reading import head_of, refuse_unknown

IGNORED = frozenset(("hidden_act", "cache_implementation"))
"""Fields of Gemma's configs that nothing reads: the activation is `hidden_activation`, whatever `hidden_act` says."""

SANDWICH_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_out_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_out_norm",
}
"""A layer's norms, by the checkpoint's names."""

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
"""What transformers takes where a config says nothing."""


@dataclass(frozen=True)
class Gemma2Config(GatedConfig):
    """The fields of a Hugging Face `Gemma2Config` that change what is computed; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gemma2"

    hidden_activation: str
    attention_bias: bool
    query_pre_attn_scalar: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "Gemma2Config":
        """From the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a missing field, one that is not understood, a rope type that is not covered, or layer types
                that don't fit the window.
        """
        neutral = {"use_bidirectional_attention": False}
        refuse_unknown(given, cls.fields_of_file() | IGNORED, neutral=neutral)
        given = {**_DEFAULTS, **given}
        fields = common(given)
        return cls(
            **fields,
            rotary=rotary_of(given, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_activation=given.get("hidden_activation") or "gelu_pytorch_tanh",
            attention_bias=given.get("attention_bias", False),
            query_pre_attn_scalar=given["query_pre_attn_scalar"],
            attn_logit_softcapping=given["attn_logit_softcapping"],
            final_logit_softcapping=given["final_logit_softcapping"],
            sliding_window=window_of(given),
            layer_types=layer_types_of(given, lambda layer: layer % 2 == 0),
            head=head_of(given, {"Gemma2ForCausalLM": "lm", "Gemma2Model": "none"}),
        )


class SandwichDecoder(Decoder):
    """A decoder of sandwich blocks: scaled embeddings, RMSNorm on both sides of each part, grouped queries, a gated
    MLP, and logits that may be capped.

    Args:
        config: a `GatedConfig` with `hidden_activation` and `final_logit_softcapping`.
        attention: builds one layer's attention, from its random streams and, if there are any, its part of `settings`.
        settings: as `Stack` takes them.
    """

    def __init__(
        self,
        config: Any,
        attention: Callable[..., Attention],
        *,
        rngs: nnx.Rngs,
        settings: Mapping[str, np.ndarray] | None = None,
    ):
        c = config
        self.config = c

        def norm() -> OffsetRMSNorm:
            return OffsetRMSNorm(c.hidden_size, c.rms_norm_eps)

        def block(rngs: nnx.Rngs, *own: Mapping[str, Array]) -> SandwichBlock:
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.hidden_activation, rngs=rngs)
            return SandwichBlock(norm(), attention(rngs, *own), norm(), norm(), mlp, norm())

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, settings=settings, rngs=rngs)
        self.final_norm = norm()
        self.unembed = self.own_unembedding(c.vocab_size, c.hidden_size, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return run_stack(self.decoder, self.embed_tokens(batch.tokens), AttentionInputs.over(batch, causal=True))

    def embed_tokens(self, ids: Array) -> Array:
        x = self.embed(ids)
        # The scale is rounded to the weights' dtype, as it was in training: in bfloat16, 55.4 is 55.5.
        return x * jnp.asarray(math.sqrt(self.config.hidden_size), x.dtype)

    @property
    def unembedding(self) -> Unembedding | None:
        """The unembedding, or the embedding it is tied to, with its cap; None for a bare model."""
        found = super().unembedding
        return None if found is None else found._replace(cap=self.config.final_logit_softcapping)


class Gemma2(SandwichDecoder):
    """Sandwich blocks with capped scores, every other one with a window."""

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
        """The tensors of a Gemma 2 checkpoint."""
        return gated_table(config, norms=SANDWICH_NORMS, biases="QKVO" if config.attention_bias else "")
