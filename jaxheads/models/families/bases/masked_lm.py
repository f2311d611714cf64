"""Base of BERT and its successors: config fields, the post-norm block, the head, the table of tensors."""

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
from ...stack import Stack
from ...unembedding import Unembedding
from .class_heads import (
    ClassFields,
    Classifies,
    ClassNames,
    architectures,
    class_names,
    head_rules,
    label_fields,
    unused_class_heads,
)
from .reading import head_of, required

ENCODER_ONLY: Mapping[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Config fields of BERT and its successors that are supported at one value only."""


_ON_POOLER = ClassNames("classifier", pooled=True)
ON_TOKENS: Mapping[str, ClassNames] = {"token_classes": ClassNames("classifier"), "answers": ClassNames("qa_outputs")}

LIKE_BERT: Mapping[str, ClassNames] = {"classes": _ON_POOLER, "choices": _ON_POOLER, **ON_TOKENS}
"""Heads of BERT and ALBERT: those of whole examples read the pooler's output."""

LIKE_ROBERTA: Mapping[str, ClassNames] = {**LIKE_BERT, "classes": ClassNames("classifier.out_proj", "classifier.dense")}
"""Heads of RoBERTa and MPNet: the classifier has a dense layer of its own."""


@dataclass(frozen=True)
class EncoderConfig(ClassFields):
    """Config fields that BERT and its successors share by name; `head` is "mlm", "none" or one of `class_heads`."""

    model_type: ClassVar[str]
    class_heads: ClassVar[Mapping[str, ClassNames]] = LIKE_BERT

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
    def fields_of_file(cls) -> set[str]:
        """Return the names of the fields that the checkpoint's config has."""
        return set(cls.__dataclass_fields__) - {"head", "pooler"}


def common_fields(
    config: Mapping[str, Any],
    stem: str,
    class_heads: Mapping[str, ClassNames] = LIKE_BERT,
    *,
    act: str = "gelu",
    pretraining: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the fields of an `EncoderConfig`.

    Args:
        stem: stem of the architectures' names, "Bert" for BertModel and BertForMaskedLM.
        class_heads: the family's heads of classes.
        act: the default activation.
        pretraining: architectures of a masked language model that also has a pooler.

    Raises:
        ValueError: for a missing field or an architecture that is not covered.
    """
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    heads = architectures(stem, class_heads, Model="none", ForMaskedLM="mlm")
    head = head_of(config, heads | dict.fromkeys(pretraining, "mlm+pooler"))
    return {
        **dict(zip(sizes, required(config, *sizes), strict=True)),
        "hidden_act": config.get("hidden_act", act),
        "max_position_embeddings": config.get("max_position_embeddings", 512),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "head": head.removesuffix("+pooler"),
        "pooler": head in ("none", "mlm+pooler") or (head in class_heads and class_heads[head].pooled),
        **label_fields(config, head),
    }


class MaskedLMHead(nnx.Module):
    """A dense layer, an activation and a LayerNorm, before an unembedding with a bias.

    Args:
        tied: whether the unembedding is the word embedding; otherwise the head holds it.
        model, width: dimensions of the stream and of the embedding, which is smaller in ALBERT.
        bias, norm_bias, out_bias: whether the dense layer, the norm and the unembedding have a bias.
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


class MaskedLM(Classifies):
    """An encoder with or without a head; a family's `__init__` sets `config` and the attributes declared here."""

    config: Any
    embed: Embed
    encoder: Stack
    pooler: nnx.Linear | None = None
    head: MaskedLMHead | None

    def own_head(
        self, model: int, act: str, epsilon: float, *, rngs: nnx.Rngs, before_classes: bool = False, **more: Any
    ) -> MaskedLMHead | None:
        """Build a masked language model's head, or None, and set `classifier`.

        Args:
            before_classes: whether the classifier reads such a head too, one without an unembedding.
            more: arguments of `MaskedLMHead`.
        """
        c = self.config
        self.classifier = self.own_classifier(model, rngs)
        self.act = activation("tanh")  # of the pooler, by this name so that rules of relevance find it
        if self.classifier is not None and before_classes:
            more["out_bias"] = False
            return MaskedLMHead(c.vocab_size, model, act, epsilon, tied=True, rngs=rngs, **more)
        if c.head != "mlm":
            return None
        return MaskedLMHead(c.vocab_size, model, act, epsilon, tied=c.tie_word_embeddings, rngs=rngs, **more)

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.encoder,)

    @property
    def unembedding(self) -> Unembedding | None:
        """The classifier, or the MLM head's own or tied unembedding; None for a bare encoder."""
        if self.classifier is not None:
            return self.classifier.unembedding
        if self.head is None:
            return None
        words = self.embed if self.head.unembed is None else self.head.unembed
        return Unembedding(words.embedding[...], None if self.head.bias is None else self.head.bias[...])

    def features(self, x_BTD: Array) -> Array:
        """Return the head's transform of the stream; for a bare encoder the stream itself."""
        if self.classifier is None:
            return x_BTD if self.head is None else self.head(x_BTD)
        names = class_names(self.config)
        if names is not None and names.pooled:
            assert self.pooler is not None, "a config with such a head has `pooler`"
            x_BTD = self.act(self.pooler(x_BTD))
        return self.classifier.features(x_BTD)

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of the first real token for a classifier of whole examples, else of the last."""
        return jnp.argmax(batch.mask, axis=1) if self.classes_of == "example" else super().readout_positions(batch)

    def pooled(self, x_BTD: Array, batch: Batch) -> Array:
        """Return the pooler's output `[B,D]`: a dense layer and tanh on the stream at each example's first real token.

        Raises:
            ValueError: if the checkpoint has no pooler.
        """
        if self.pooler is None:
            raise ValueError("this checkpoint has no pooler")
        first = jnp.argmax(batch.mask, axis=1)
        return self.act(self.pooler(jnp.take_along_axis(x_BTD, first[:, None, None], axis=1)[:, 0]))


def post_norm_block(model: int, heads: int, hidden: int, act: str, epsilon: float, *, rngs: nnx.Rngs) -> PostNormBlock:
    """Build BERT's layer, with all biases and a norm after each sum."""
    return PostNormBlock(
        Attention(model, heads, model // heads, bias=True, rngs=rngs),
        layer_norm(model, epsilon, rngs),
        PlainMLP(model, hidden, act, rngs=rngs),
        layer_norm(model, epsilon, rngs),
    )


@dataclass(frozen=True)
class HeadNames:
    """Names in the checkpoint of a `MaskedLMHead`'s modules and tensors.

    Attributes:
        dense, norm, decoder: modules of the dense layer, the norm and the unembedding.
        bias: tensor of the unembedding's bias, or None. A tied head may store it under this name and as the decoder's
            bias; of an untied head only the decoder's is used.
        words: tensor of the word embedding, to which the unembedding may be tied.
    """

    dense: str
    norm: str
    decoder: str
    bias: str | None
    words: str


def head_table(config: Any, names: HeadNames, *, bias: bool = True, norm_bias: bool = True) -> Table:
    """Return the table of a `MaskedLMHead`, including copies of tied tensors and tensors that are not used.

    Args:
        bias, norm_bias: whether the dense layer and the norm have a bias.
    """
    decoder, decoder_bias = f"{names.decoder}.weight", f"{names.decoder}.bias"
    if config.head != "mlm":
        stored = [rf"{re.escape(name)}\..*" for name in (names.dense, names.norm, names.decoder)]
        stored += [] if names.bias is None else [re.escape(names.bias)]
        unused = {"|".join(stored): "for masked tokens, which this architecture does not predict"}
        return Table(tuple(head_rules(config)), unused | unused_class_heads(config))
    rules = [*dense(names.dense, "head.dense", bias=bias), *norm(names.norm, "head.norm", bias=norm_bias)]
    tied = config.tie_word_embeddings
    if not tied:
        rules.append(same(decoder, "head.unembed.embedding"))
    if names.bias is not None:
        rules.append(same(names.bias if tied else decoder_bias, "head.bias"))
    twice = names.bias not in (None, decoder_bias)
    unused = {re.escape(str(names.bias)): "not used: an untied decoder has its own"} if twice and not tied else {}
    copies = {decoder: names.words, **({decoder_bias: str(names.bias)} if twice else {})} if tied else {}
    return Table(tuple(rules), unused | unused_class_heads(config), copies=copies)


def layer_rules(
    at: str, attention: Mapping[str, str], attention_norm: str, mlp: tuple[str, str], mlp_norm: str
) -> list[Rule]:
    """Return the rules of a layer built by `post_norm_block`.

    Args:
        at: prefix of the layer's tensors.
        attention: names of the projections below it, by the letters Q, K, V and O.
        attention_norm, mlp, mlp_norm: names of the other modules below it.
    """
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
    """Return the rules of layers whose tensors are named like BERT's."""
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
    """Return the table of a whole checkpoint: embeddings named like BERT's, the layers, the pooler and the head.

    Args:
        stem: prefix of the names in a model with a head; a bare model's lack it.
        pooler: name of the pooler below the stem, or None.
        parts: names below the stem of all other modules but the embeddings, joined by "|".
        passed_over: tensors of other heads, see `Table.passed_over`.
    """
    at, last = f"{stem}.embeddings", head_table(config, head)
    rules = [
        same(f"{at}.word_embeddings.weight", "embed.embedding"),
        same(f"{at}.position_embeddings.weight", "embed_position.embedding"),
        *norm(f"{at}.LayerNorm", "embed_norm"),
        *layers,
        *last.rules,
    ]
    if getattr(config, "type_vocab_size", None) is not None:
        rules.append(same(f"{at}.token_type_embeddings.weight", "embed_type.embedding"))
    unused = {**last.passed_over, **(passed_over or {}), rf"{stem}\.embeddings\.position_ids": "0, 1, 2, …"}
    if config.pooler and pooler is not None:
        rules += dense(f"{stem}.{pooler}", "pooler")
    elif pooler is not None:
        unused[rf"{stem}\.pooler\..*"] = "a masked language model does not use its pooler"
    rename = (
        (rf"^(embeddings|pooler|{parts})\.", rf"{stem}.\1."),
        (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
        (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
    )
    return Table(tuple(rules), unused, rename, last.copies)
