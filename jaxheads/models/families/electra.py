"""ELECTRA (Clark et al. 2020): a generator, and a discriminator that tells the tokens it replaced.

Both are BERT without a pooler, whose embeddings may be smaller than the stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import PostNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Embed, layer_norm
from ..loading.weights import Table, dense
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import ClassNames
from .bases.masked_lm import (
    ENCODER_ONLY,
    ON_TOKENS,
    EncoderConfig,
    HeadNames,
    MaskedLM,
    bert_layers,
    common_fields,
    encoder_table,
    post_norm_block,
)
from .bases.reading import refuse_unknown

_SUMMARY = {f"summary_{name}" for name in ("type", "use_proj", "activation", "last_dropout", "first_dropout")}
"""Fields of the head for multiple choice, which is not ported."""


@dataclass(frozen=True)
class ElectraConfig(EncoderConfig):
    """The fields of a Hugging Face `ElectraConfig` that affect the computation.

    `head` is "mlm" (the generator), "discriminator", "none" or another of `class_heads`.
    """

    model_type = "electra"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {
        **ON_TOKENS,
        "classes": ClassNames("classifier.out_proj", "classifier.dense", "gelu"),
        "discriminator": ClassNames(
            "discriminator_predictions.dense_prediction", "discriminator_predictions.dense", act=None
        ),
    }

    type_vocab_size: int
    embedding_size: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ElectraConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        refuse_unknown(config, cls.fields_of_file() | _SUMMARY, neutral=ENCODER_ONLY)
        common = {**common_fields(config, "Electra", cls.class_heads), "pooler": False}
        types, embedding = config.get("type_vocab_size", 2), config.get("embedding_size", 128)
        return cls(**common, type_vocab_size=types, embedding_size=embedding)


class Electra(MaskedLM):
    """A post-norm encoder with learned positions and token types, as a generator, a discriminator or a classifier.

    The discriminator's output is the logit that a token was replaced, `[B,T]`.
    """

    config_type = ElectraConfig

    def __init__(self, config: ElectraConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, E, epsilon = c.hidden_size, c.embedding_size, c.layer_norm_eps

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return post_norm_block(D, c.num_attention_heads, c.intermediate_size, c.hidden_act, epsilon, rngs=rngs)

        self.embed = Embed(c.vocab_size, E, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, E, rngs=rngs)
        self.embed_type = Embed(c.type_vocab_size, E, rngs=rngs)
        self.embed_norm = layer_norm(E, epsilon, rngs)
        self.widen = None if E == D else nnx.Linear(E, D, rngs=rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, rngs=rngs)
        self.head = self.own_head(D, "gelu", epsilon, width=E, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTE = self.embed(batch.tokens) + self.embed_position(batch.positions) + self.embed_type(batch.token_types)
        x_BTE = self.embed_norm(x_BTE)
        x_BTD = x_BTE if self.widen is None else self.widen(x_BTE)
        return run_stack(self.encoder, x_BTD, AttentionInputs.over(batch, causal=False))

    def output(self, x_BTD: Array, batch: Batch) -> Array:
        out = super().output(x_BTD, batch)
        return out[..., 0] if self.config.head == "discriminator" else out

    @staticmethod
    def table(config: ElectraConfig) -> Table:
        """Return the table of an ELECTRA checkpoint's tensors."""
        head = HeadNames(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            decoder="generator_lm_head",
            bias="generator_lm_head.bias",
            words="electra.embeddings.word_embeddings.weight",
        )
        layers = bert_layers("electra")
        if config.embedding_size != config.hidden_size:
            layers += dense("electra.embeddings_project", "widen")
        return encoder_table(config, "electra", layers, head, pooler=None, parts="encoder|embeddings_project")
