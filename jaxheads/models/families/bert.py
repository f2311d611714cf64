"""BERT (Devlin et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import PostNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Embed, layer_norm
from ..loading.weights import Table
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import ClassNames
from .bases.masked_lm import (
    ENCODER_ONLY,
    LIKE_BERT,
    EncoderConfig,
    HeadNames,
    MaskedLM,
    bert_layers,
    common_fields,
    encoder_table,
    post_norm_block,
)
from .bases.reading import refuse_unknown


@dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """The fields of a Hugging Face `BertConfig` that affect the computation.

    `head` is "mlm", "none" or one of `class_heads`.
    """

    model_type = "bert"

    class_heads: ClassVar[Mapping[str, ClassNames]] = {
        **LIKE_BERT,
        "next_sentence": ClassNames("cls.seq_relationship", pooled=True),
    }

    type_vocab_size: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        old_pooler = {f"pooler_{name}" for name in ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head")}
        unused = old_pooler | {"pooler_type", "directionality"}  # of the first multilingual checkpoints
        refuse_unknown(config, cls.fields_of_file() | unused, neutral=ENCODER_ONLY)
        common = common_fields(config, "Bert", cls.class_heads, pretraining=("BertForPreTraining", "AntiBERTy"))
        return cls(**common, type_vocab_size=config.get("type_vocab_size", 2))

    @property
    def first_position(self) -> int:
        """The row of the table of positions that belongs to the first token."""
        return 0

    @property
    def head_act(self) -> str:
        """The head's activation."""
        return self.hidden_act


class Bert(MaskedLM):
    """A post-norm encoder with learned positions and token types."""

    config_type = BertConfig

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, epsilon, first = c.hidden_size, c.layer_norm_eps, c.first_position

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return post_norm_block(D, c.num_attention_heads, c.intermediate_size, c.hidden_act, epsilon, rngs=rngs)

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(first + c.max_position_embeddings, D, rngs=rngs)
        self.embed_type = Embed(c.type_vocab_size, D, rngs=rngs)
        self.embed_norm = layer_norm(D, epsilon, rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, rngs=rngs)
        self.pooler = nnx.Linear(D, D, rngs=rngs) if c.pooler else None
        self.head = self.own_head(D, c.head_act, epsilon, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions + self.config.first_position)
        x_BTD = self.embed_norm(x_BTD + self.embed_type(batch.token_types))
        return run_stack(self.encoder, x_BTD, AttentionInputs.over(batch, causal=False))

    @staticmethod
    def table(config: BertConfig) -> Table:
        """Return the table of a BERT checkpoint's tensors."""
        head = HeadNames(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
            words="bert.embeddings.word_embeddings.weight",
        )
        other = {
            r"cls\.(species|chain|graft)\..*": "AntiBERTy's heads on its pooler (Ruffolo et al. 2021), not ported",
        }
        if config.head != "next_sentence":
            other[r"cls\.seq_relationship\..*"] = "the next-sentence head, which this architecture has not"
        return encoder_table(config, "bert", bert_layers("bert"), head, passed_over=other)
