"""ALBERT (Lan et al. 2020): embeddings smaller than the stream, and layers that share their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jax import Array

from ..blocks import PostNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Embed, layer_norm
from ..loading.weights import Table, dense
from ..network import RunStack
from ..stack import Stack
from .bases.masked_lm import (
    ENCODER_ONLY,
    EncoderConfig,
    HeadNames,
    MaskedLM,
    common_fields,
    encoder_table,
    layer_rules,
    post_norm_block,
)
from .bases.reading import refuse_unknown, required


@dataclass(frozen=True)
class AlbertConfig(EncoderConfig):
    """The fields of a Hugging Face `AlbertConfig` that affect the computation; `head` is "mlm" or "none"."""

    model_type = "albert"

    type_vocab_size: int
    embedding_size: int
    num_hidden_groups: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "AlbertConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or more groups than layers.
        """
        neutral = {
            **ENCODER_ONLY,
            "inner_group_num": 1,
            # in the configs of the first checkpoints; transformers does not read them
            "down_scale_factor": 1,
            "gap_size": 0,
            "net_structure_type": 0,
            "num_memory_blocks": 0,
            "layers_to_keep": [],
        }
        refuse_unknown(config, cls.fields_of_file() | {"classifier_dropout_prob"}, neutral=neutral)
        common = common_fields(config, "Albert", act="gelu_new", pretraining=("AlbertForPreTraining",))
        [embedding] = required(config, "embedding_size")
        groups, layers = config.get("num_hidden_groups", 1), common["num_hidden_layers"]
        if not 1 <= groups <= layers:
            raise ValueError(f"num_hidden_groups of albert lies in 1..{layers}, the number of layers; got {groups}")
        types = config.get("type_vocab_size", 2)
        return cls(**common, type_vocab_size=types, embedding_size=embedding, num_hidden_groups=groups)

    @property
    def sharing(self) -> tuple[int, ...]:
        """Each layer's group, computed as transformers does."""
        share = self.num_hidden_layers / self.num_hidden_groups
        return tuple(int(layer / share) for layer in range(self.num_hidden_layers))


class Albert(MaskedLM):
    """A post-norm encoder whose layers share weights in groups; a layer's index names an application of them."""

    config_type = AlbertConfig

    def __init__(self, config: AlbertConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, E, epsilon = c.hidden_size, c.embedding_size, c.layer_norm_eps

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return post_norm_block(D, c.num_attention_heads, c.intermediate_size, c.hidden_act, epsilon, rngs=rngs)

        self.embed = Embed(c.vocab_size, E, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, E, rngs=rngs)
        self.embed_type = Embed(c.type_vocab_size, E, rngs=rngs)
        self.embed_norm = layer_norm(E, epsilon, rngs)
        self.widen = nnx.Linear(E, D, rngs=rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, sharing=c.sharing, rngs=rngs)
        self.pooler = nnx.Linear(D, D, rngs=rngs) if c.pooler else None
        self.head = self.own_head(D, c.hidden_act, epsilon, width=E, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTE = self.embed(batch.tokens) + self.embed_position(batch.positions) + self.embed_type(batch.token_types)
        return run_stack(self.encoder, self.widen(self.embed_norm(x_BTE)), AttentionInputs.over(batch, causal=False))

    @staticmethod
    def table(config: AlbertConfig) -> Table:
        """Return the table of an ALBERT checkpoint's tensors; it stores a layer for each group."""
        at = "albert.encoder.albert_layer_groups.{layer}.albert_layers.0"
        words = zip("QKVO", ("query", "key", "value", "dense"), strict=True)
        names = {letter: f"attention.{word}" for letter, word in words}
        layers = layer_rules(at, names, "attention.LayerNorm", ("ffn", "ffn_output"), "full_layer_layer_norm")
        layers += dense("albert.encoder.embedding_hidden_mapping_in", "widen")
        head = HeadNames(
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            decoder="predictions.decoder",
            bias="predictions.bias",
            words="albert.embeddings.word_embeddings.weight",
        )
        other = {r"sop_classifier\..*": "the sentence-order head, which is not ported"}
        return encoder_table(config, "albert", layers, head, pooler="pooler", passed_over=other)
