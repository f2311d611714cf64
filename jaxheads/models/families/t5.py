"""T5 (Raffel et al. 2020): version 1.0, and 1.1 with a gated MLP and an untied unembedding; mT5 (Xue et al. 2021)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from flax import nnx
from jax import Array

from ..blocks import AttentionBlock, PreNormBlock, PreNormCrossBlock
from ..inputs.attention_inputs import RowBias
from ..inputs.axes import TARGETS, TOKENS
from ..inputs.batch import Batch
from ..layers import Attention, Embed, GatedMLP, PlainMLP, rms_norm
from ..loading.weights import Rule, Table, dense, projections, same
from ..norms import with_frozen_statistics
from ..positions import RelativeBias
from ..stack import Stack
from ..unembedding import Unembedding
from .bart import HEADS
from .bases.class_heads import ClassFields, ClassNames, architectures, head_rules, label_fields, unused_class_heads
from .bases.encoder_decoder import EncoderDecoder, cross_stack, decoder_stack
from .bases.reading import head_of, refuse_unknown, required


@dataclass(frozen=True)
class T5Config(ClassFields):
    """The fields of a Hugging Face `T5Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "t5"
    class_heads: ClassVar[Mapping[str, ClassNames]] = HEADS
    max_position_embeddings: ClassVar[None] = None
    tied_where_absent: ClassVar[bool] = True
    """Whether a checkpoint without an unembedding uses the embedding, whatever its config says."""
    stem: ClassVar[str] = "T5"
    projection: ClassVar[str] = "relu"

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float
    activation: str
    gated: bool
    tie_word_embeddings: bool
    scale_decoder_outputs: bool
    eos_token_id: int | None
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        fields = set(cls.__dataclass_fields__) - {"activation", "gated", "head"}
        derived = {"feed_forward_proj", "dense_act_fn", "is_gated_act"}
        unused = {"dropout_rate", "n_positions", "output_past"}
        refuse_unknown(config, fields | derived | unused, neutral={"is_encoder_decoder": True, "is_decoder": False})
        vocab, width, size, inner, layers, heads = required(
            config, "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"
        )
        buckets = config.get("relative_attention_num_buckets", 32)
        furthest = config.get("relative_attention_max_distance", 128)
        if buckets < 4 or furthest <= buckets // 2:
            raise ValueError(
                "relative_attention_num_buckets must be at least 4 and relative_attention_max_distance more than half "
                f"of it, got {buckets} and {furthest}"
            )
        projection = config.get("feed_forward_proj", cls.projection)
        gated = projection.startswith("gated-")
        act = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
        head = head_of(config, architectures(cls.stem, HEADS, ForConditionalGeneration="lm", Model="none"))
        tied = config.get("tie_word_embeddings", True)
        return cls(
            vocab_size=vocab,
            d_model=width,
            d_kv=size,
            d_ff=inner,
            num_layers=layers,
            num_decoder_layers=config.get("num_decoder_layers") or layers,
            num_heads=heads,
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=furthest,
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-6),
            activation=act,
            gated=gated,
            tie_word_embeddings=tied,
            scale_decoder_outputs=cls._scales(config, tied),
            eos_token_id=config.get("eos_token_id", 1),
            head=head,
            **label_fields(config, head),
        )

    @classmethod
    def _scales(cls, config: Mapping[str, Any], tied: bool) -> bool:
        """Whether the stream is divided by the square root of its width before the unembedding."""
        return config.get("scale_decoder_outputs", tied is not False)


class MT5Config(T5Config):
    """The fields of mT5's config, whose MLP is gated if it does not say otherwise."""

    model_type = "mt5"
    stem = "MT5"
    projection = "gated-gelu"

    @classmethod
    def _scales(cls, config: Mapping[str, Any], tied: bool) -> bool:
        return False


class T5(EncoderDecoder):
    """A pre-norm encoder–decoder with RMSNorm and no biases; scores have a relative bias and no scale."""

    config_type: ClassVar[type[T5Config]] = T5Config

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        c = config
        self.config = c

        def attention(rngs: nnx.Rngs) -> Attention:
            return Attention(c.d_model, c.num_heads, c.d_kv, scale=1.0, rngs=rngs)

        def norm(rngs: nnx.Rngs) -> nnx.RMSNorm:
            return rms_norm(c.d_model, c.layer_norm_epsilon, rngs)

        def mlp(rngs: nnx.Rngs) -> nnx.Module:
            if c.gated:
                return GatedMLP(c.d_model, c.d_ff, c.activation, rngs=rngs)
            return PlainMLP(c.d_model, c.d_ff, c.activation, bias=False, rngs=rngs)

        def bias(both_ways: bool) -> RelativeBias:
            buckets, furthest = c.relative_attention_num_buckets, c.relative_attention_max_distance
            return RelativeBias(buckets, furthest, c.num_heads, both_ways=both_ways, rngs=rngs)

        def layer(kind: type, rngs: nnx.Rngs) -> Any:
            return kind(norm(rngs), attention(rngs), norm(rngs), mlp(rngs))

        self.embed = Embed(c.vocab_size, c.d_model, rngs=rngs)
        self.encoder = Stack("encoder", c.num_layers, lambda r: layer(PreNormBlock, r), causal=False, rngs=rngs)
        cross = cross_stack(c.num_decoder_layers, lambda r: layer(PreNormCrossBlock, r), rngs=rngs)
        self.decoder = decoder_stack(
            c.num_decoder_layers, lambda r: AttentionBlock(attention(r), norm(r)), cross, rngs=rngs
        )
        self.encoder_bias, self.decoder_bias = bias(both_ways=True), bias(both_ways=False)
        self.encoder_norm, self.final_norm = norm(rngs), norm(rngs)
        untied = c.head == "lm" and not c.tie_word_embeddings
        self.unembed = Embed(c.vocab_size, c.d_model, rngs=rngs) if untied else None
        self.classifier = self.own_classifier(c.d_model, rngs)

    def embed_source(self, batch: Batch) -> Array:
        return self.embed(TOKENS.ids(batch))

    def embed_targets(self, batch: Batch) -> Array:
        return self.embed(TARGETS.ids(batch))

    def memory(self, x_BSD: Array) -> Array:
        return self.encoder_norm(x_BSD)

    def biases(self, batch: Batch) -> tuple[Array | RowBias, Array | RowBias]:
        return self.encoder_bias(TOKENS.of(batch).positions), self.decoder_bias(TARGETS.of(batch).positions)

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream; where the unembedding is tied, divided by the square root of its width."""
        return self.classified(self._scaled(self.final_norm(x_BTD)))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        if self.classes_of == "example":
            return super().with_frozen_statistics(x, whole)
        return self._scaled(with_frozen_statistics(self.final_norm, x, whole))

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed(ids)

    def _scaled(self, normed: Array) -> Array:
        scaled = self.config.head == "lm" and self.config.scale_decoder_outputs
        return normed * self.config.d_model**-0.5 if scaled else normed

    @property
    def unembedding(self) -> Unembedding | None:
        """The classifier, or the unembedding or the embedding it is tied to; None for a bare model."""
        if self.classifier is not None:
            return self.classifier.unembedding
        if self.config.head != "lm":
            return None
        return Unembedding((self.embed if self.unembed is None else self.unembed).embedding[...])

    @staticmethod
    def table(config: T5Config) -> Table:
        """Return the table of a T5 checkpoint's tensors."""
        rules: list[Rule] = [same("shared.weight", "embed.embedding")]
        for side, final in (("encoder", "encoder_norm"), ("decoder", "final_norm")):
            bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            rules += [
                same(bias, f"{side}_bias.embedding"),
                same(f"{side}.final_layer_norm.weight", f"{final}.scale"),
            ]
        rules += _attention("encoder", 0, "SelfAttention", "encoder.blocks", "attention_norm")
        rules += _mlp(config, "encoder", 1, "encoder.blocks")
        rules += _attention("decoder", 0, "SelfAttention", "decoder.blocks", "norm")
        rules += _attention("decoder", 1, "EncDecAttention", "decoder.cross.blocks", "attention_norm")
        rules += _mlp(config, "decoder", 2, "decoder.cross.blocks")
        copies = {f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")}
        passed_over = {
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "never used (T5 1.0)"
        }
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        elif config.head == "lm":
            copies["lm_head.weight"] = "shared.weight"
        else:
            passed_over[r"lm_head\.weight"] = "an unembedding, which this architecture has not"
        passed_over |= unused_class_heads(config)
        at = "transformer." if config.head == "classes" else ""
        rules = [replace(rule, name=f"{at}{rule.name}") for rule in rules]
        return Table(
            (*rules, *head_rules(config)),
            {f"({re.escape(at)})?({pattern})": reason for pattern, reason in passed_over.items()},
            copies={f"{at}{copy}": f"{at}{original}" for copy, original in copies.items()},
        )


class MT5(T5):
    """mT5, which computes what T5 1.1 does."""

    config_type = MT5Config


def _attention(side: str, sublayer: int, kind: str, path: str, norm: str) -> list[Rule]:
    at = f"{side}.block.{{layer}}.layer.{sublayer}"
    names = {letter: f"{at}.{kind}.{letter.lower()}" for letter in "QKVO"}
    return [
        same(f"{at}.layer_norm.weight", f"{path}.{norm}.scale"),
        *projections(names, f"{path}.attention", bias=False),
    ]


def _mlp(config: T5Config, side: str, sublayer: int, path: str) -> list[Rule]:
    at = f"{side}.block.{{layer}}.layer.{sublayer}"
    rules: list[Rule] = [same(f"{at}.layer_norm.weight", f"{path}.mlp_norm.scale")]
    names = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if config.gated else {"wi": "up", "wo": "down"}
    for stored, matrix in names.items():
        rules += dense(f"{at}.DenseReluDense.{stored}", f"{path}.mlp.{matrix}", bias=False)
    return rules
