"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018): post-norm encoder–decoders.

They differ in their embeddings: BART learns its positions and norms its embeddings; Marian's positions are sinusoids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..blocks import AttentionBlock, PostNormBlock
from ..inputs.axes import TARGETS, TOKENS, Axis
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, Setting, layer_norm
from ..loading.weights import Rule, Table, dense, norm, projections, same
from ..positions import sinusoids
from ..stack import Stack
from ..unembedding import Unembedding
from .bases.class_heads import ClassFields, ClassNames, architectures, head_rules, label_fields, unused_class_heads
from .bases.encoder_decoder import EncoderDecoder, cross_stack, decoder_stack
from .bases.reading import head_of, refuse_unknown, required

_OFFSET = 2
"""Rows at the start of BART's table of positions that are not used."""

_EPSILON = 1e-5
"""Epsilon of all norms; no config has it."""


HEADS: Mapping[str, ClassNames] = {
    "classes": ClassNames("classification_head.out_proj", "classification_head.dense"),
    "answers": ClassNames("qa_outputs"),
}
"""Heads of classes of BART and T5."""


@dataclass(frozen=True)
class _Config(ClassFields):
    """The fields of a Hugging Face config that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str]
    heads: ClassVar[Mapping[str, str]]
    class_heads: ClassVar[Mapping[str, ClassNames]] = {}

    vocab_size: int
    max_position_embeddings: int
    d_model: int
    encoder_layers: int
    encoder_ffn_dim: int
    encoder_attention_heads: int
    decoder_layers: int
    decoder_ffn_dim: int
    decoder_attention_heads: int
    activation_function: str
    scale_embedding: bool
    tie_word_embeddings: bool
    eos_token_id: int | None
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        sizes = (
            "vocab_size d_model encoder_layers encoder_ffn_dim encoder_attention_heads decoder_layers decoder_ffn_dim "
            "decoder_attention_heads"
        ).split()
        fields = set(cls.__dataclass_fields__) - {"head"}
        unused = set(
            "dropout activation_dropout attention_dropout classif_dropout encoder_layerdrop decoder_layerdrop init_std "
            "num_hidden_layers static_position_embeddings extra_pos_embeddings force_bos_token_to_be_generated "
            "gradient_checkpointing classifier_dropout".split()
        )
        neutral = {
            "is_encoder_decoder": True,
            "is_decoder": False,
            "normalize_before": False,
            "add_final_layer_norm": False,
            "add_bias_logits": False,
            "normalize_embedding": cls.model_type == "bart",
            "share_encoder_decoder_embeddings": True,
            "decoder_vocab_size": config.get("vocab_size"),
        }
        refuse_unknown(config, fields | unused, neutral=neutral)
        head = head_of(config, cls.heads)
        return cls(
            **dict(zip(sizes, required(config, *sizes), strict=True)),
            max_position_embeddings=config.get("max_position_embeddings", 1024),
            activation_function=config.get("activation_function", "gelu"),
            scale_embedding=config.get("scale_embedding", False),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            eos_token_id=config.get("eos_token_id", 2),
            head=head,
            **label_fields(config, head),
        )


class BartConfig(_Config):
    """The fields of a Hugging Face `BartConfig` that affect the computation."""

    model_type = "bart"
    class_heads: ClassVar = HEADS
    heads: ClassVar = architectures("Bart", HEADS, ForConditionalGeneration="lm", Model="none")


class MarianConfig(_Config):
    """The fields of a Hugging Face `MarianConfig` that affect the computation."""

    model_type = "marian"
    heads: ClassVar = {"MarianMTModel": "lm", "MarianModel": "none"}


class _PostNorm(EncoderDecoder):
    """Stacks and unembedding of BART and Marian."""

    config: _Config
    embed: Embed
    unembed: Embed | None
    logits_bias: nnx.Param | None

    def _build(self, config: _Config, rngs: nnx.Rngs) -> None:
        """Make the parameters that both families have."""
        c, D = config, config.d_model
        self.config = c

        def attention(heads: int, rngs: nnx.Rngs) -> Attention:
            return Attention(D, heads, D // heads, bias=True, rngs=rngs)

        def block(heads: int, inner: int, rngs: nnx.Rngs) -> PostNormBlock:
            mlp = PlainMLP(D, inner, c.activation_function, rngs=rngs)
            return PostNormBlock(attention(heads, rngs), _norm(D, rngs), mlp, _norm(D, rngs))

        def encoder(rngs: nnx.Rngs) -> PostNormBlock:
            return block(c.encoder_attention_heads, c.encoder_ffn_dim, rngs)

        def cross(rngs: nnx.Rngs) -> PostNormBlock:
            return block(c.decoder_attention_heads, c.decoder_ffn_dim, rngs)

        def decoder(rngs: nnx.Rngs) -> AttentionBlock:
            return AttentionBlock(attention(c.decoder_attention_heads, rngs), _norm(D, rngs), post=True)

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.encoder = Stack("encoder", c.encoder_layers, encoder, causal=False, rngs=rngs)
        self.decoder = decoder_stack(
            c.decoder_layers, decoder, cross_stack(c.decoder_layers, cross, rngs=rngs), rngs=rngs
        )
        untied = c.head == "lm" and not c.tie_word_embeddings
        self.unembed = Embed(c.vocab_size, D, rngs=rngs) if untied else None
        self.classifier = self.own_classifier(D, rngs)
        self.logits_bias = nnx.Param(jnp.zeros((c.vocab_size,))) if c.head == "lm" else None

    def words(self, batch: Batch, axis: Axis) -> Array:
        """Embed the ids of an axis, `[B,T,D]`."""
        x_BTD = self.embed(axis.ids(batch))
        return x_BTD * self.config.d_model**0.5 if self.config.scale_embedding else x_BTD

    def features(self, x_BTD: Array) -> Array:
        """Return the stream, which its last block has normed, or a classifier's transform of it."""
        return self.classified(x_BTD)

    @property
    def unembedding(self) -> Unembedding | None:
        """The classifier, or the unembedding or the embedding it is tied to with a bias; None for a bare model."""
        if self.classifier is not None:
            return self.classifier.unembedding
        if self.logits_bias is None:
            return None
        words = self.embed if self.unembed is None else self.unembed
        return Unembedding(words.embedding[...], self.logits_bias[...])


class Bart(_PostNorm):
    """BART, with learned positions and a norm after the embeddings."""

    config_type = BartConfig

    def __init__(self, config: BartConfig, *, rngs: nnx.Rngs):
        self._build(config, rngs)
        D, count = config.d_model, config.max_position_embeddings + _OFFSET
        self.embed_position_encoder = Embed(count, D, rngs=rngs)
        self.embed_position_decoder = Embed(count, D, rngs=rngs)
        self.embed_norm_encoder, self.embed_norm_decoder = _norm(D, rngs), _norm(D, rngs)

    def embed_source(self, batch: Batch) -> Array:
        positions_BSD = self.embed_position_encoder(TOKENS.of(batch).positions + _OFFSET)
        return self.embed_norm_encoder(self.words(batch, TOKENS) + positions_BSD)

    def embed_targets(self, batch: Batch) -> Array:
        positions_BTD = self.embed_position_decoder(TARGETS.of(batch).positions + _OFFSET)
        return self.embed_norm_decoder(self.words(batch, TARGETS) + positions_BTD)

    @staticmethod
    def table(config: BartConfig) -> Table:
        """Return the table of a BART checkpoint's tensors."""
        embeddings: list[Rule] = []
        for side in ("encoder", "decoder"):
            embeddings.append(same(f"model.{side}.embed_positions.weight", f"embed_position_{side}.embedding"))
            embeddings += norm(f"model.{side}.layernorm_embedding", f"embed_norm_{side}")
        return _table(config, embeddings, {r"model\.(encoder|decoder)\.version": "of the code that wrote an old file"})


class Marian(_PostNorm):
    """Marian, with sinusoidal positions: sines in the first half of the dimensions, cosines in the second."""

    config_type = MarianConfig

    def __init__(self, config: MarianConfig, *, rngs: nnx.Rngs):
        self._build(config, rngs)
        self.sinusoids = Setting(sinusoids(config.max_position_embeddings, config.d_model))

    def embed_source(self, batch: Batch) -> Array:
        return self._embedded(batch, TOKENS)

    def embed_targets(self, batch: Batch) -> Array:
        return self._embedded(batch, TARGETS)

    def _embedded(self, batch: Batch, axis: Axis) -> Array:
        """Embed the ids of an axis together with their positions, `[B,T,D]`."""
        x_BTD = self.words(batch, axis)
        return x_BTD + self.sinusoids[...].astype(x_BTD.dtype)[axis.of(batch).positions]

    @staticmethod
    def table(config: MarianConfig) -> Table:
        """Return the table of a Marian checkpoint's tensors."""
        return _table(config, [], {r"model\.(encoder|decoder)\.embed_positions\.weight": "sinusoids, computed"})


def _norm(model: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return layer_norm(model, _EPSILON, rngs)


def _table(config: _Config, embeddings: list[Rule], passed_over: dict[str, str]) -> Table:
    """Return the table of both families' tensors, with a family's own embeddings and exceptions."""
    rules: list[Rule] = [same("model.shared.weight", "embed.embedding"), *embeddings, *head_rules(config)]
    for side, blocks, heads_norm in (
        ("encoder", "encoder.blocks", "encoder.blocks.attention_norm"),
        ("decoder", "decoder.cross.blocks", "decoder.blocks.norm"),
    ):
        at = f"model.{side}.layers.{{layer}}"
        rules += _attention(f"{at}.self_attn", f"{side}.blocks.attention")
        rules += norm(f"{at}.self_attn_layer_norm", heads_norm)
        rules += dense(f"{at}.fc1", f"{blocks}.mlp.up")
        rules += dense(f"{at}.fc2", f"{blocks}.mlp.down")
        rules += norm(f"{at}.final_layer_norm", f"{blocks}.mlp_norm")
    at = "model.decoder.layers.{layer}"
    rules += _attention(f"{at}.encoder_attn", "decoder.cross.blocks.attention")
    rules += norm(f"{at}.encoder_attn_layer_norm", "decoder.cross.blocks.attention_norm")
    copies = {f"model.{side}.embed_tokens.weight": "model.shared.weight" for side in ("encoder", "decoder")}
    if config.head == "lm":
        rules.append(Rule("final_logits_bias", ("logits_bias",), lambda t, _: (t[0],), lambda value: value[None]))
        copies["lm_head.weight"] = "model.shared.weight"
        if not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
    else:
        other = {r"lm_head\.weight|final_logits_bias": "an unembedding, which this architecture has not"}
        passed_over = {**passed_over, **other}
    passed_over = {**passed_over, **unused_class_heads(config)}
    return Table(tuple(rules), passed_over, ((r"^(shared|encoder|decoder)\.", r"model.\1."),), copies)


def _attention(stored: str, path: str) -> tuple[Rule, ...]:
    names = {letter: f"{stored}.{letter.lower()}_proj" for letter in "QKV"}
    return projections({**names, "O": f"{stored}.out_proj"}, path, bias=True)
