"""M2M100 (Fan et al. 2021) and NLLB (Costa-jussà et al. 2022): pre-norm encoder–decoders of many languages.

Their positions are sinusoids, which no checkpoint needs to hold. Languages are tokens, which the tokenizer puts before
the text: `model.tokenizer.src_lang` and `model.tokenizer.tgt_lang` name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..inputs.axes import TARGETS, TOKENS, Axis
from ..inputs.batch import Batch
from ..layers import Embed, Setting, layer_norm
from ..loading.weights import Rule, Table, same
from ..norms import with_frozen_statistics
from ..positions import spread_sinusoids
from ..unembedding import Unembedding
from .bases.encoder_decoder import EncoderDecoder, pre_norm_rules, pre_norm_stacks
from .bases.reading import head_of, refuse_unknown, required

_EPSILON = 1e-5
"""Epsilon of all norms; no config has it."""


@dataclass(frozen=True)
class M2M100Config:
    """The fields of a Hugging Face `M2M100Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "m2m_100"

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
    pad_token_id: int
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "M2M100Config":
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
            "dropout activation_dropout attention_dropout classif_dropout classifier_dropout encoder_layerdrop "
            "decoder_layerdrop init_std num_hidden_layers static_position_embeddings extra_pos_embeddings "
            "gradient_checkpointing force_bos_token_to_be_generated".split()
        )
        neutral = {
            "is_encoder_decoder": True,
            "is_decoder": False,
            "normalize_before": True,
            "add_final_layer_norm": True,
            "normalize_embedding": False,
            "add_bias_logits": False,
            "tie_word_embeddings": True,
        }
        refuse_unknown(config, fields | unused, neutral=neutral)
        return cls(
            **dict(zip(sizes, required(config, *sizes), strict=True)),
            max_position_embeddings=config.get("max_position_embeddings", 1024),
            activation_function=config.get("activation_function", "relu"),
            scale_embedding=config.get("scale_embedding", True),
            pad_token_id=config.get("pad_token_id", 1),
            head=head_of(config, {"M2M100ForConditionalGeneration": "lm", "M2M100Model": "none"}),
        )


class M2M100(EncoderDecoder):
    """A pre-norm encoder–decoder with LayerNorm and sinusoidal positions, of a vocabulary that both sides share."""

    config_type = M2M100Config

    def __init__(self, config: M2M100Config, *, rngs: nnx.Rngs):
        c, D = config, config.d_model
        self.config = c
        # Real tokens are counted from the padding's id on, as fairseq does.
        count, first = c.max_position_embeddings, c.pad_token_id + 1
        self.sinusoids = Setting(spread_sinusoids(first + count, D)[first:])
        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.encoder, self.decoder = pre_norm_stacks(c, bias=True, epsilon=_EPSILON, rngs=rngs)
        self.encoder_norm, self.final_norm = (layer_norm(D, _EPSILON, rngs) for _ in range(2))

    def embed_source(self, batch: Batch) -> Array:
        return self._embedded(batch, TOKENS)

    def embed_targets(self, batch: Batch) -> Array:
        return self._embedded(batch, TARGETS)

    def _embedded(self, batch: Batch, axis: Axis) -> Array:
        """Embed the ids of an axis together with their positions, `[B,T,D]`."""
        x_BTD = self.embed_tokens(axis.ids(batch))
        return x_BTD + self.sinusoids[...].astype(x_BTD.dtype)[axis.of(batch).positions]

    def embed_tokens(self, ids: Array) -> Array:
        x = self.embed(ids)
        return x * self.config.d_model**0.5 if self.config.scale_embedding else x

    def memory(self, x_BSD: Array) -> Array:
        return self.encoder_norm(x_BSD)

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream."""
        return self.final_norm(x_BTD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return with_frozen_statistics(self.final_norm, x, whole)

    @property
    def unembedding(self) -> Unembedding | None:
        """The embedding, to which it is tied; None for a bare model."""
        return Unembedding(self.embed.embedding[...]) if self.config.head == "lm" else None

    @staticmethod
    def table(config: M2M100Config) -> Table:
        """Return the table of an M2M100 checkpoint's tensors."""
        rules: list[Rule] = [same("model.shared.weight", "embed.embedding"), *pre_norm_rules(bias=True)]
        passed_over = {r"model\.(encoder|decoder)\.embed_positions\.weights?": "sinusoids, computed"}
        copies = {f"model.{side}.embed_tokens.weight": "model.shared.weight" for side in ("encoder", "decoder")}
        if config.head != "lm":
            passed_over[r"lm_head\.weight"] = "a bare model has no head"
        else:
            copies["lm_head.weight"] = "model.shared.weight"
        return Table(tuple(rules), passed_over, ((r"^(shared|encoder|decoder)\.", r"model.\1."),), copies)
