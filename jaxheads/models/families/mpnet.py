"""MPNet (Song et al. 2020): BERT without token types, with a relative bias on scores that all layers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jax import Array

from ..blocks import PostNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Embed, layer_norm
from ..loading.weights import Table, same
from ..network import RunStack
from ..positions import RelativeBias
from ..stack import Stack
from .bases.masked_lm import (
    ENCODER_ONLY,
    LIKE_ROBERTA,
    EncoderConfig,
    MaskedLM,
    common_fields,
    encoder_table,
    layer_rules,
    post_norm_block,
)
from .bases.reading import refuse_unknown
from .roberta import lm_head, tokens_of

_PADDING = 1
"""Padding's row of the table of positions, which begin after it; the config has no influence on it."""

_BUCKETS, _FURTHEST = 32, 128
"""Buckets of distances and the largest distance: transformers' constants, which no config changes."""


@dataclass(frozen=True)
class MPNetConfig(EncoderConfig):
    """The fields of a Hugging Face `MPNetConfig` that affect the computation; `head` is "mlm" or "none".

    `max_position_embeddings` counts the tokens of the longest text: the checkpoint's rows after padding's.
    """

    model_type = "mpnet"
    class_heads = LIKE_ROBERTA

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MPNetConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        neutral = {**ENCODER_ONLY, "relative_attention_num_buckets": _BUCKETS}
        refuse_unknown(config, cls.fields_of_file(), neutral=neutral)
        common = common_fields(config, "MPNet", cls.class_heads)
        common["max_position_embeddings"] = tokens_of(config, common["max_position_embeddings"], _PADDING)
        return cls(**common)


class MPNet(MaskedLM):
    """A post-norm encoder with a table of positions and a relative bias."""

    config_type = MPNetConfig

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, epsilon = c.hidden_size, c.layer_norm_eps

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return post_norm_block(D, c.num_attention_heads, c.intermediate_size, c.hidden_act, epsilon, rngs=rngs)

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings + _PADDING + 1, D, rngs=rngs)
        self.embed_norm = layer_norm(D, epsilon, rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, rngs=rngs)
        self.encoder_bias = RelativeBias(_BUCKETS, _FURTHEST, c.num_attention_heads, both_ways=True, rngs=rngs)
        self.pooler = nnx.Linear(D, D, rngs=rngs) if c.pooler else None
        self.head = self.own_head(D, "gelu", epsilon, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions + _PADDING + 1)
        context = AttentionInputs.over(batch, causal=False, bias=self.encoder_bias(batch.positions))
        return run_stack(self.encoder, self.embed_norm(x_BTD), context)

    @staticmethod
    def table(config: MPNetConfig) -> Table:
        """Return the table of an MPNet checkpoint's tensors."""
        names = {letter: f"attention.attn.{letter.lower()}" for letter in "QKVO"}
        mlp = ("intermediate.dense", "output.dense")
        at = "mpnet.encoder.layer.{layer}"
        layers = layer_rules(at, names, "attention.LayerNorm", mlp, "output.LayerNorm")
        layers.append(same("mpnet.encoder.relative_attention_bias.weight", "encoder_bias.embedding"))
        return encoder_table(config, "mpnet", layers, lm_head("mpnet"))
