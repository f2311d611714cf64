"""Qwen3-MoE (Yang et al. 2025): Qwen3 with mixtures of experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx

from ..layers import Attention, rms_norm
from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import HEAD_NORMS, PRE_NORMS, attention_of, common, rotary_of
from .bases.reading import refuse_unknown
from .bases.routed_decoder import EXPERT_FIELDS, RoutedConfig, RoutedDecoder, routing
from .qwen2 import WINDOW_FIELDS
from .qwen2_moe import qwen_moe_table

_DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "intermediate_size": 6144,
}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Qwen3MoeConfig(RoutedConfig):
    """The fields of a Hugging Face `Qwen3MoeConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "qwen3_moe"
    answers_root = "transformer"

    attention_bias: bool
    sliding_window: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen3MoeConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        `max_window_layers` of older configs means nothing here: a window is one of all layers.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, an empty window,
                or more experts of a token than there are.
        """
        own = {"dense_layers", "shared_expert_intermediate_size"}
        refuse_unknown(config, cls.fields_of_file() - own | WINDOW_FIELDS | EXPERT_FIELDS)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        sizes = {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
        return cls(
            **fields,
            **routing(config, **sizes, norm_topk_prob=False),
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            attention_bias=config.get("attention_bias", False),
            sliding_window=config["sliding_window"] if config.get("use_sliding_window") else None,
            **decoder_head(config, "Qwen3Moe", cls.class_heads),
        )


class Qwen3Moe(RoutedDecoder):
    """A pre-norm decoder like Qwen3, with mixtures of gated MLPs."""

    config_type = Qwen3MoeConfig

    def __init__(self, config: Qwen3MoeConfig, *, rngs: nnx.Rngs):
        def attention(rngs: nnx.Rngs) -> Attention:
            norms: Any = {name: rms_norm(config.head_dim, config.rms_norm_eps, rngs) for name in ("q_norm", "k_norm")}
            return attention_of(config, rngs, bias=config.attention_bias, window=config.sliding_window, **norms)

        super().__init__(config, lambda rngs, *_: attention(rngs), rngs=rngs)

    @staticmethod
    def table(config: Qwen3MoeConfig) -> Table:
        """Return the table of a Qwen3-MoE checkpoint's tensors, with experts one by one or joined."""
        biases = "QKVO" if config.attention_bias else ""
        return qwen_moe_table(config, norms=PRE_NORMS | HEAD_NORMS, biases=biases)
