"""BERT (Devlin et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..batch import Batch, Context
from ..blocks import PostNormBlock
from ..layers import Attention, Embed, PlainMLP, activation, layer_norm
from ..loading.weights import Rule, Table, dense, norm, projections, same
from ..model import Network, Through
from ..stack import Stack
from ..unembedding import Unembedding
from .reading import head_of, refuse_unknown, required


@dataclass(frozen=True)
class BertConfig:
    """The fields of a Hugging Face `BertConfig` that change what is computed; `head` is "mlm" or "none"."""

    model_type: ClassVar[str] = "bert"

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    tie_word_embeddings: bool
    head: str
    pooler: bool

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "BertConfig":
        """From the contents of a config.json.

        Raises:
            ValueError: for a missing field, or one that is not understood.
        """
        own = set(cls.__dataclass_fields__) - {"head", "pooler"}
        neutral = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
        old_pooler = {f"pooler_{name}" for name in ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head")}
        unused = old_pooler | {"pooler_type", "directionality"}  # of the first multilingual checkpoints
        refuse_unknown(given, own | unused, neutral=neutral)
        vocab, width, layers, heads, inner = required(
            given, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
        )
        head = head_of(given, {"BertModel": "none", "BertForMaskedLM": "mlm", "BertForPreTraining": "mlm+pooler"})
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            hidden_act=given.get("hidden_act", "gelu"),
            max_position_embeddings=given.get("max_position_embeddings", 512),
            type_vocab_size=given.get("type_vocab_size", 2),
            layer_norm_eps=given.get("layer_norm_eps", 1e-12),
            tie_word_embeddings=given.get("tie_word_embeddings", True),
            head=head.removesuffix("+pooler"),
            pooler=head != "mlm",
        )


class MaskedLMHead(nnx.Module):
    """Dense, activation, LayerNorm; then comes an unembedding, its own where untied, and a bias."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(config.hidden_size, config.hidden_size, rngs=rngs)
        self.norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,)))
        tied = config.tie_word_embeddings
        self.unembed = None if tied else Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.act = activation(config.hidden_act)

    def __call__(self, x_BTD: Array) -> Array:
        return self.norm(self.act(self.dense(x_BTD)))


class Bert(Network):
    """A post-norm encoder with learnt positions and token types."""

    config_type = BertConfig

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            head = c.hidden_size // c.num_attention_heads
            return PostNormBlock(
                Attention(c.hidden_size, c.num_attention_heads, head, bias=True, out_bias=True, rngs=rngs),
                layer_norm(c.hidden_size, c.layer_norm_eps, rngs),
                PlainMLP(c.hidden_size, c.intermediate_size, c.hidden_act, rngs=rngs),
                layer_norm(c.hidden_size, c.layer_norm_eps, rngs),
            )

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, c.hidden_size, rngs=rngs)
        self.embed_type = Embed(c.type_vocab_size, c.hidden_size, rngs=rngs)
        self.embed_norm = layer_norm(c.hidden_size, c.layer_norm_eps, rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, rngs=rngs)
        self.pooler = nnx.Linear(c.hidden_size, c.hidden_size, rngs=rngs) if c.pooler else None
        self.head = MaskedLMHead(c, rngs=rngs) if c.head == "mlm" else None

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.encoder,)

    @property
    def unembedding(self) -> Unembedding | None:
        """The MLM head's, or the word embedding it is tied to; None for a bare encoder."""
        if self.head is None:
            return None
        words = self.embed if self.head.unembed is None else self.head.unembed
        return Unembedding(words.embedding[...], self.head.bias[...])

    def hidden(self, batch: Batch, through: Through) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions) + self.embed_type(batch.token_types)
        return through(self.encoder, self.embed_norm(x_BTD), Context.over(batch, causal=False))

    def features(self, x_BTD: Array) -> Array:
        """The MLM head's transform of the stream; of a bare encoder the stream itself."""
        return x_BTD if self.head is None else self.head(x_BTD)

    def pooled(self, x_BTD: Array, batch: Batch) -> Array:
        """The pooler's `[B,D]`: tanh of a dense layer on the stream at each example's first real token.

        Raises:
            ValueError: if the checkpoint has no pooler.
        """
        if self.pooler is None:
            raise ValueError("this checkpoint has no pooler")
        first = jnp.argmax(batch.mask, axis=1)
        return jnp.tanh(self.pooler(jnp.take_along_axis(x_BTD, first[:, None, None], axis=1)[:, 0]))

    @staticmethod
    def table(config: BertConfig) -> Table:
        """The tensors of a BERT checkpoint."""
        here, at = "encoder.blocks", "bert.encoder.layer.{layer}"
        names = {
            letter: f"{at}.attention.self.{word}" for letter, word in zip("QKV", ("query", "key", "value"), strict=True)
        }
        names["O"] = f"{at}.attention.output.dense"
        rules: list[Rule] = [
            *(
                same(f"bert.embeddings.{stored}_embeddings.weight", f"{path}.embedding")
                for stored, path in (("word", "embed"), ("position", "embed_position"), ("token_type", "embed_type"))
            ),
            *norm("bert.embeddings.LayerNorm", "embed_norm"),
            *norm(f"{at}.attention.output.LayerNorm", f"{here}.attention_norm"),
            *norm(f"{at}.output.LayerNorm", f"{here}.mlp_norm"),
            *projections(names, f"{here}.attention", bias=True),
            *dense(f"{at}.intermediate.dense", f"{here}.mlp.up"),
            *dense(f"{at}.output.dense", f"{here}.mlp.down"),
        ]
        passed_over = {
            r"bert\.embeddings\.position_ids": "0, 1, 2, …",
            r"cls\.seq_relationship\..*": "the next-sentence head, which is not ported",
        }
        if config.pooler:
            rules += dense("bert.pooler.dense", "pooler")
        else:
            passed_over[r"bert\.pooler\..*"] = "a masked language model does not use its pooler"
        if config.head == "mlm":
            rules += _mlm_rules(config)
            if config.tie_word_embeddings:
                passed_over[r"cls\.predictions\.decoder\.weight"] = "the same as the word embedding"
                passed_over[r"cls\.predictions\.decoder\.bias"] = "the same as cls.predictions.bias"
            else:
                passed_over[r"cls\.predictions\.bias"] = "not used: an untied decoder has its own"
        else:
            passed_over[r"cls\..*"] = "a bare model has no head"
        rename = (
            (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),
            (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
            (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
        )
        return Table(tuple(rules), passed_over, rename)


def _mlm_rules(config: BertConfig) -> list[Rule]:
    rules = [
        *dense("cls.predictions.transform.dense", "head.dense"),
        *norm("cls.predictions.transform.LayerNorm", "head.norm"),
        same("cls.predictions.bias" if config.tie_word_embeddings else "cls.predictions.decoder.bias", "head.bias"),
    ]
    if not config.tie_word_embeddings:
        rules.append(same("cls.predictions.decoder.weight", "head.unembed.embedding"))
    return rules
