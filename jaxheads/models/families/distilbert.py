"""DistilBERT (Sanh et al. 2019): BERT without token types, with other names of fields and tensors."""

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
from .bases.class_heads import ClassFields, ClassNames, architectures, label_fields
from .bases.masked_lm import ON_TOKENS, HeadNames, MaskedLM, encoder_table, layer_rules, post_norm_block
from .bases.reading import head_of, refuse_unknown, required

_EPSILON = 1e-12
"""Epsilon of all norms; no config has it."""

_CLASSIFIER = ClassNames("classifier", "pre_classifier", "relu")


@dataclass(frozen=True)
class DistilBertConfig(ClassFields):
    """The fields of a Hugging Face `DistilBertConfig` that affect the computation; `head` is "mlm" or "none"."""

    model_type: ClassVar[str] = "distilbert"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {"classes": _CLASSIFIER, "choices": _CLASSIFIER, **ON_TOKENS}
    pooler: ClassVar[bool] = False

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    activation: str
    max_position_embeddings: int
    tie_word_embeddings: bool
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DistilBertConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        unused = {"dropout", "qa_dropout", "seq_classif_dropout"}
        unused.add("sinusoidal_pos_embds")  # how the table of positions was made: the checkpoint holds it
        neutral = {"tie_weights_": True, "is_decoder": False, "add_cross_attention": False}
        refuse_unknown(config, set(cls.__dataclass_fields__) - {"head"} | unused, neutral=neutral)
        vocab, width, layers, heads, inner = required(config, "vocab_size", "dim", "n_layers", "n_heads", "hidden_dim")
        head = head_of(config, architectures("DistilBert", cls.class_heads, Model="none", ForMaskedLM="mlm"))
        return cls(
            vocab_size=vocab,
            dim=width,
            n_layers=layers,
            n_heads=heads,
            hidden_dim=inner,
            activation=config.get("activation", "gelu"),
            max_position_embeddings=config.get("max_position_embeddings", 512),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            head=head,
            **label_fields(config, head),
        )


class DistilBert(MaskedLM):
    """A post-norm encoder with a table of positions."""

    config_type = DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            return post_norm_block(c.dim, c.n_heads, c.hidden_dim, c.activation, _EPSILON, rngs=rngs)

        self.embed = Embed(c.vocab_size, c.dim, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, c.dim, rngs=rngs)
        self.embed_norm = layer_norm(c.dim, _EPSILON, rngs)
        self.encoder = Stack("encoder", c.n_layers, block, causal=False, rngs=rngs)
        self.head = self.own_head(c.dim, c.activation, _EPSILON, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions)
        return run_stack(self.encoder, self.embed_norm(x_BTD), AttentionInputs.over(batch, causal=False))

    @staticmethod
    def table(config: DistilBertConfig) -> Table:
        """Return the table of a DistilBERT checkpoint's tensors."""
        names = {letter: f"attention.{letter.lower()}_lin" for letter in "QKV"} | {"O": "attention.out_lin"}
        at = "distilbert.transformer.layer.{layer}"
        layers = layer_rules(at, names, "sa_layer_norm", ("ffn.lin1", "ffn.lin2"), "output_layer_norm")
        words = "distilbert.embeddings.word_embeddings.weight"
        head = HeadNames("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias", words)
        return encoder_table(config, "distilbert", layers, head, pooler=None, parts="transformer")
