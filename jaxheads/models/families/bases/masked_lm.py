"""What BERT and its successors have in common: config fields, the post-norm block, the head, the table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...blocks import PostNormBlock
from ...inputs.batch import Batch
from ...layers import Attention, Embed, PlainMLP, activation, layer_norm
from ...loading.weights import Rule, Table, dense, norm, projections, same
from ...network import Network
from ...stack import Stack
from ...unembedding import Unembedding
from .reading import head_of, required

ENCODER_ONLY: Mapping[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Fields that BERT and its successors have, and that are understood at one value only."""


@dataclass(frozen=True)
class EncoderConfig:
    """The fields that BERT's successors took over by name; `head` is "mlm" or "none"."""

    model_type: ClassVar[str]

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    layer_norm_eps: float
    tie_word_embeddings: bool
    head: str
    pooler: bool

    @classmethod
    def own(cls) -> set[str]:
        """The names of the fields that the checkpoint's config has."""
        return set(cls.__dataclass_fields__) - {"head", "pooler"}


def common_fields(
    given: Mapping[str, Any], stem: str, *, act: str = "gelu", pretraining: Sequence[str] = ()
) -> dict[str, Any]:
    """What an `EncoderConfig` holds.

    Args:
        stem: of the architectures' names: "Bert" for BertModel and BertForMaskedLM.
        act: the activation where none is named.
        pretraining: architectures that are the masked language model with its pooler.

    Raises:
        ValueError: for a missing field or an architecture that is not covered.
    """
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    heads = {f"{stem}Model": "none", f"{stem}ForMaskedLM": "mlm"}
    head = head_of(given, heads | dict.fromkeys(pretraining, "mlm+pooler"))
    return {
        **dict(zip(sizes, required(given, *sizes), strict=True)),
        "hidden_act": given.get("hidden_act", act),
        "max_position_embeddings": given.get("max_position_embeddings", 512),
        "layer_norm_eps": given.get("layer_norm_eps", 1e-12),
        "tie_word_embeddings": given.get("tie_word_embeddings", True),
        "head": head.removesuffix("+pooler"),
        "pooler": head != "mlm",
    }


class MaskedLMHead(nnx.Module):
    """Dense, activation, LayerNorm; then comes an unembedding, its own where untied, and a bias.

    Args:
        model, width: of the stream, and of the embedding, which is smaller in ALBERT.
        bias, norm_bias, out_bias: whether the dense layer has one, and the norm, and the unembedding.
    """

    def __init__(
        self,
        vocabulary: int,
        model: int,
        act: str,
        epsilon: float,
        *,
        tied: bool,
        rngs: nnx.Rngs,
        width: int | None = None,
        bias: bool = True,
        norm_bias: bool = True,
        out_bias: bool = True,
    ):
        width = model if width is None else width
        self.dense = nnx.Linear(model, width, use_bias=bias, rngs=rngs)
        self.norm = layer_norm(width, epsilon, rngs, bias=norm_bias)
        self.bias = nnx.Param(jnp.zeros((vocabulary,))) if out_bias else None
        self.unembed = None if tied else Embed(vocabulary, width, rngs=rngs)
        self.act = activation(act)

    def __call__(self, x_BTD: Array) -> Array:
        return self.norm(self.act(self.dense(x_BTD)))


class MaskedLM(Network):
    """An encoder with or without its head. A family's `__init__` sets `config` and what is declared here."""

    config: Any
    embed: Embed
    encoder: Stack
    pooler: nnx.Linear | None = None
    head: MaskedLMHead | None

    def own_head(self, model: int, act: str, epsilon: float, *, rngs: nnx.Rngs, **more: Any) -> MaskedLMHead | None:
        """The head, where the config says there is one; `more` as in `MaskedLMHead`."""
        c = self.config
        if c.head != "mlm":
            return None
        return MaskedLMHead(c.vocab_size, model, act, epsilon, tied=c.tie_word_embeddings, rngs=rngs, **more)

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.encoder,)

    @property
    def unembedding(self) -> Unembedding | None:
        """The MLM head's, or the word embedding it is tied to; None for a bare encoder."""
        if self.head is None:
            return None
        words = self.embed if self.head.unembed is None else self.head.unembed
        return Unembedding(words.embedding[...], None if self.head.bias is None else self.head.bias[...])

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


def post_norm_block(model: int, heads: int, hidden: int, act: str, epsilon: float, *, rngs: nnx.Rngs) -> PostNormBlock:
    """BERT's layer: biases everywhere, a norm after each sum."""
    return PostNormBlock(
        Attention(model, heads, model // heads, bias=True, rngs=rngs),
        layer_norm(model, epsilon, rngs),
        PlainMLP(model, hidden, act, rngs=rngs),
        layer_norm(model, epsilon, rngs),
    )


@dataclass(frozen=True)
class HeadNames:
    """The head's modules in the checkpoint, the tensor of its bias, and the word embedding's, which it may be tied to.

    Where it is tied, the bias may have a name of its own beside the decoder's; untied, only the decoder's is used.
    It is None where there is none.
    """

    dense: str
    norm: str
    decoder: str
    bias: str | None
    words: str


def head_table(config: Any, names: HeadNames, *, bias: bool = True, norm_bias: bool = True) -> Table:
    """The tensors of a `MaskedLMHead`; what they are tied to; what is passed over.

    Args:
        bias, norm_bias: whether the dense layer has one, and the norm.
    """
    decoder, own = f"{names.decoder}.weight", f"{names.decoder}.bias"
    if config.head != "mlm":
        stored = [rf"{re.escape(name)}\..*" for name in (names.dense, names.norm, names.decoder)]
        stored += [] if names.bias is None else [re.escape(names.bias)]
        return Table((), {"|".join(stored): "a bare model has no head"})
    rules = [*dense(names.dense, "head.dense", bias=bias), *norm(names.norm, "head.norm", bias=norm_bias)]
    tied = config.tie_word_embeddings
    if not tied:
        rules.append(same(decoder, "head.unembed.embedding"))
    if names.bias is not None:
        rules.append(same(names.bias if tied else own, "head.bias"))
    twice = names.bias not in (None, own)
    unused = {re.escape(str(names.bias)): "not used: an untied decoder has its own"} if twice and not tied else {}
    copies = {decoder: names.words, **({own: str(names.bias)} if twice else {})} if tied else {}
    return Table(tuple(rules), unused, copies=copies)


def layer_rules(
    at: str, attention: Mapping[str, str], attention_norm: str, mlp: tuple[str, str], mlp_norm: str
) -> list[Rule]:
    """Of a layer of `post_norm_block`: its modules' names below `at`, the attention's by the letters Q, K, V and O."""
    here = "encoder.blocks"
    names = {letter: f"{at}.{name}" for letter, name in attention.items()}
    return [
        *projections(names, f"{here}.attention", bias=True),
        *norm(f"{at}.{attention_norm}", f"{here}.attention_norm"),
        *dense(f"{at}.{mlp[0]}", f"{here}.mlp.up"),
        *dense(f"{at}.{mlp[1]}", f"{here}.mlp.down"),
        *norm(f"{at}.{mlp_norm}", f"{here}.mlp_norm"),
    ]


def bert_layers(stem: str) -> list[Rule]:
    """Of all layers, named as BERT's."""
    words = zip("QKV", ("query", "key", "value"), strict=True)
    attention = {letter: f"attention.self.{word}" for letter, word in words} | {"O": "attention.output.dense"}
    mlp = ("intermediate.dense", "output.dense")
    at = f"{stem}.encoder.layer.{{layer}}"
    return layer_rules(at, attention, "attention.output.LayerNorm", mlp, "output.LayerNorm")


def encoder_table(
    config: Any,
    stem: str,
    layers: Sequence[Rule],
    head: HeadNames,
    *,
    pooler: str | None = "pooler.dense",
    parts: str = "encoder",
    passed_over: Mapping[str, str] | None = None,
) -> Table:
    """A whole checkpoint: the embeddings, which all name alike, these layers, the pooler, the head.

    Args:
        stem: what the names of a model with a head begin with; those of a bare model lack it.
        pooler: the module below the stem, or None where there is none.
        parts: what there is below the stem beside embeddings and pooler.
        passed_over: of other heads.
    """
    at, ends = f"{stem}.embeddings", head_table(config, head)
    rules = [
        same(f"{at}.word_embeddings.weight", "embed.embedding"),
        same(f"{at}.position_embeddings.weight", "embed_position.embedding"),
        *norm(f"{at}.LayerNorm", "embed_norm"),
        *layers,
        *ends.rules,
    ]
    if getattr(config, "type_vocab_size", None) is not None:
        rules.append(same(f"{at}.token_type_embeddings.weight", "embed_type.embedding"))
    unused = {**ends.passed_over, **(passed_over or {}), rf"{stem}\.embeddings\.position_ids": "0, 1, 2, …"}
    if config.pooler and pooler is not None:
        rules += dense(f"{stem}.{pooler}", "pooler")
    elif pooler is not None:
        unused[rf"{stem}\.pooler\..*"] = "a masked language model does not use its pooler"
    rename = (
        (rf"^(embeddings|pooler|{parts})\.", rf"{stem}.\1."),
        (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
        (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
    )
    return Table(tuple(rules), unused, rename, ends.copies)
