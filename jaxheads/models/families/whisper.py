"""Whisper (Radford et al. 2022): a pre-norm encoder–decoder from the log-mel spectrogram of 30 seconds to text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..inputs.axes import TARGETS, Axis
from ..inputs.batch import Batch
from ..layers import Embed, activation, layer_norm
from ..loading.weights import Rule, Table, dense, same
from ..norms import with_frozen_statistics
from ..unembedding import Unembedding
from .bases.encoder_decoder import EncoderDecoder, pre_norm_rules, pre_norm_stacks
from .bases.reading import head_of, refuse_unknown, required

FRAMES = Axis("frames", 2)
"""Axis of the encoder: the second convolution has stride 2, so that two frames become a position."""

_EPSILON = 1e-5
"""Epsilon of all norms; no config has it."""

_BIASES = "QVO"
"""Projections that have biases; keys have none."""


@dataclass(frozen=True)
class WhisperConfig:
    """The fields of a Hugging Face `WhisperConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "whisper"

    vocab_size: int
    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_ffn_dim: int
    encoder_attention_heads: int
    decoder_layers: int
    decoder_ffn_dim: int
    decoder_attention_heads: int
    max_source_positions: int
    max_target_positions: int
    activation_function: str
    tie_word_embeddings: bool
    head: str

    @property
    def max_position_embeddings(self) -> int:
        """Longest target, in tokens; the number of frames is fixed."""
        return self.max_target_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "WhisperConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or a width that the heads don't divide.
        """
        sizes = (
            "vocab_size d_model encoder_layers encoder_ffn_dim encoder_attention_heads decoder_layers decoder_ffn_dim "
            "decoder_attention_heads"
        ).split()
        fields = set(cls.__dataclass_fields__) - {"head"}
        unused = set(
            "dropout activation_dropout encoder_layerdrop decoder_layerdrop init_std num_hidden_layers "
            "apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob "
            "mask_feature_length mask_feature_min_masks use_weighted_layer_sum classifier_proj_size "
            "forced_decoder_ids median_filter_width alignment_heads lang_ids".split()
        )
        neutral = {"is_encoder_decoder": True, "is_decoder": False, "scale_embedding": False}
        refuse_unknown(config, fields | unused, neutral=neutral)
        read = dict(zip(sizes, required(config, *sizes), strict=True))
        return cls(
            **read,
            num_mel_bins=config.get("num_mel_bins", 80),
            max_source_positions=config.get("max_source_positions", 1500),
            max_target_positions=config.get("max_target_positions", 448),
            activation_function=config.get("activation_function", "gelu"),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            head=head_of(config, {"WhisperForConditionalGeneration": "lm", "WhisperModel": "none"}),
        )


class Whisper(EncoderDecoder):
    """A pre-norm encoder–decoder with LayerNorm; two convolutions of the spectrogram feed the encoder."""

    config_type = WhisperConfig
    source = FRAMES

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        c, D = config, config.d_model
        self.config = c

        self.conv1 = nnx.Conv(c.num_mel_bins, D, kernel_size=(3,), padding=1, rngs=rngs)
        self.conv2 = nnx.Conv(D, D, kernel_size=(3,), strides=2, padding=1, rngs=rngs)
        self.embed_position_encoder = Embed(c.max_source_positions, D, rngs=rngs)
        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_position_decoder = Embed(c.max_target_positions, D, rngs=rngs)
        self.encoder, self.decoder = pre_norm_stacks(c, bias=_BIASES, epsilon=_EPSILON, source=FRAMES, rngs=rngs)
        self.encoder_norm, self.final_norm = _norm(D, rngs), _norm(D, rngs)
        untied = c.head == "lm" and not c.tie_word_embeddings
        self.unembed = Embed(c.vocab_size, D, rngs=rngs) if untied else None

    def embed_source(self, batch: Batch) -> Array:
        """Embed the spectrogram by two convolutions, with exact GELUs in every config, and positions: `[B,S,D]`."""
        assert batch.features is not None
        gelu, positions_SD = activation("gelu"), self.embed_position_encoder.embedding[...]
        x_BFM = jnp.moveaxis(batch.features, 1, 2).astype(positions_SD.dtype)
        return gelu(self.conv2(gelu(self.conv1(x_BFM)))) + positions_SD[None]

    def embed_targets(self, batch: Batch) -> Array:
        targets = TARGETS.of(batch)
        assert targets.ids is not None
        return self.embed(targets.ids) + self.embed_position_decoder(targets.positions)

    def memory(self, x_BSD: Array) -> Array:
        return self.encoder_norm(x_BSD)

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream."""
        return self.final_norm(x_BTD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return with_frozen_statistics(self.final_norm, x, whole)

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed(ids)

    @property
    def unembedding(self) -> Unembedding | None:
        """The unembedding, or the embedding it is tied to; None for a bare model."""
        if self.config.head != "lm":
            return None
        return Unembedding((self.embed if self.unembed is None else self.unembed).embedding[...])

    @property
    def spectrogram(self) -> tuple[int, int]:
        """Mels and frames of every input: the encoder always has `max_source_positions` positions."""
        return self.config.num_mel_bins, FRAMES.size * self.config.max_source_positions

    def check(self, batch: Batch) -> None:
        """Raise ValueError for a spectrogram of another shape than `spectrogram`."""
        assert batch.features is not None
        shape, expected = batch.features.shape[1:], self.spectrogram
        if shape != expected:
            raise ValueError(
                f"features must be [examples, {expected[0]} mels, {expected[1]} frames], got {shape[0]} mels and "
                f"{shape[1]} frames; model.encode pads audio with silence"
            )

    @staticmethod
    def table(config: WhisperConfig) -> Table:
        """Return the table of a Whisper checkpoint's tensors."""
        rules: list[Rule] = [
            *dense("model.encoder.conv1", "conv1"),  # a convolution's axes are reversed as a matrix's are
            *dense("model.encoder.conv2", "conv2"),
            same("model.encoder.embed_positions.weight", "embed_position_encoder.embedding"),
            same("model.decoder.embed_tokens.weight", "embed.embedding"),
            same("model.decoder.embed_positions.weight", "embed_position_decoder.embedding"),
        ]
        rules += pre_norm_rules(bias=_BIASES)
        copies, passed_over = {}, {}
        if config.head != "lm":
            passed_over = {r"proj_out\.weight": "a bare model has no head"}
        elif config.tie_word_embeddings:
            copies = {"proj_out.weight": "model.decoder.embed_tokens.weight"}
        else:
            rules.append(same("proj_out.weight", "unembed.embedding"))
        return Table(tuple(rules), passed_over, ((r"^(encoder|decoder)\.", r"model.\1."),), copies)


def _norm(model: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return layer_norm(model, _EPSILON, rngs)
