"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in every layer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import attention_of, common, gated_table, rotary_of, window_of
from .bases.reading import refuse_unknown
from .bases.routed_decoder import (
    EXPERT_FIELDS,
    RoutedConfig,
    RoutedDecoder,
    expert_rules,
    joined_expert_rules,
    mlp_rules,
    routing,
)

_DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "intermediate_size": 14336,
}
"""transformers' defaults of absent fields."""

_AT = "model.layers.{layer}.block_sparse_moe"


@dataclass(frozen=True)
class MixtralConfig(RoutedConfig):
    """The fields of a Hugging Face `MixtralConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "mixtral"

    sliding_window: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MixtralConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, an empty
                window, or more experts of a token than there are.
        """
        own = {"moe_intermediate_size", "shared_expert_intermediate_size", "norm_topk_prob", "dense_layers"}
        refuse_unknown(config, cls.fields_of_file() - own | EXPERT_FIELDS - {"mlp_only_layers", "decoder_sparse_step"})
        config = {**_DEFAULTS, **config}
        fields = common(config)
        experts = {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}
        return cls(
            **fields,
            **routing(config, **experts, moe_intermediate_size=fields["intermediate_size"]),
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            sliding_window=window_of(config),
            **decoder_head(config, "Mixtral", cls.class_heads),
        )


class Mixtral(RoutedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries and a mixture of gated MLPs."""

    config_type = MixtralConfig

    def __init__(self, config: MixtralConfig, *, rngs: nnx.Rngs):
        super().__init__(config, partial(attention_of, config, window=config.sliding_window), rngs=rngs)

    @staticmethod
    def table(config: MixtralConfig) -> Table:
        """Return the table of a Mixtral checkpoint's tensors, with experts one by one or joined."""
        names = {matrix: f"{_AT}.experts.{{expert}}.{name}" for matrix, name in _MATRICES.items()}
        table = gated_table(
            config,
            mlp=[*mlp_rules(config, _AT), *expert_rules(names)],
            alternatives=joined_expert_rules(f"{_AT}.experts"),
        )
        return replace(table, rename=(*table.rename, (r"(layers\.\d+)\.mlp\.", r"\1.block_sparse_moe.")))


_MATRICES = {"gate": "w1", "up": "w3", "down": "w2"}
"""Mixtral's names of an expert's matrices."""
