"""GPT-OSS (OpenAI 2025): experts with biases and clamped gates, alternating windows, and a learnt sink in each head.

A head's softmax has one more score, its sink, without a key or a value: rows of patterns sum to less than 1, and what
they lack is attention to nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..experts import ClampedGatedMLP
from ..loading.weights import Rule, Table, linear, same
from .bases.class_heads import decoder_head
from .bases.gated_decoder import attention_of, common, gated_table, layer_types_of, rotary_of, window_settings
from .bases.reading import refuse_unknown
from .bases.routed_decoder import RoutedConfig, RoutedDecoder, routing

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "sliding_window": 128,
    "intermediate_size": 2880,
}
"""transformers' defaults of absent fields."""

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The rotary positions of a config that states none."""

_UNUSED = frozenset(("num_experts", "num_local_experts", "initial_context_length", "experts_per_token"))


@dataclass(frozen=True)
class GptOssConfig(RoutedConfig):
    """The fields of a Hugging Face `GptOssConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gpt_oss"

    attention_bias: bool
    sliding_window: int | None
    layer_types: tuple[str, ...]
    swiglu_alpha: float
    swiglu_limit: float

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GptOssConfig":
        """Read the contents of a config.json; every other layer has a window where it does not say which.

        `experts_per_token` and `initial_context_length` repeat other fields, which count.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, layer types
                that don't fit the windows, or more experts of a token than there are.
        """
        own = {"moe_intermediate_size", "shared_expert_intermediate_size", "norm_topk_prob", "dense_layers"}
        refuse_unknown(config, cls.fields_of_file() - own | _UNUSED)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        if not (config.get("rope_parameters") or config.get("rope_scaling")):
            config = {**config, "rope_parameters": _YARN}
        experts = {"num_experts": 128, "num_experts_per_tok": 4, "norm_topk_prob": True}
        return cls(
            **fields,
            **routing(config, **experts, moe_intermediate_size=fields["intermediate_size"]),
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            attention_bias=config.get("attention_bias", True),
            sliding_window=config["sliding_window"],
            layer_types=layer_types_of(config, lambda layer: layer % 2 == 0),
            swiglu_alpha=config.get("swiglu_alpha", 1.702),
            swiglu_limit=config.get("swiglu_limit", 7.0),
            **decoder_head(config, "GptOss", cls.class_heads),
        )


class GptOss(RoutedDecoder):
    """A pre-norm decoder with RMSNorm, YaRN, windows in some layers, learnt sinks and a mixture of clamped MLPs."""

    config_type = GptOssConfig

    def __init__(self, config: GptOssConfig, *, rngs: nnx.Rngs):
        c = config

        def expert(rngs: nnx.Rngs) -> ClampedGatedMLP:
            return ClampedGatedMLP(c.hidden_size, c.moe_intermediate_size, c.swiglu_alpha, c.swiglu_limit, rngs=rngs)

        attention = partial(attention_of, config, bias=config.attention_bias, sinks=True)
        settings = window_settings(config)
        super().__init__(config, attention, settings=settings, expert=expert, router_bias=True, rngs=rngs)

    @staticmethod
    def table(config: GptOssConfig) -> Table:
        """Return the table of a GPT-OSS checkpoint's tensors, in which a layer's experts are joined."""
        here, mlp = "decoder.blocks", "model.layers.{layer}.mlp"
        experts = f"{here}.mlp.experts"
        rules = [
            linear(f"{mlp}.router.weight", f"{here}.mlp.router.kernel"),
            same(f"{mlp}.router.bias", f"{here}.mlp.router.bias"),
            _interleaved(f"{mlp}.experts.gate_up_proj", f"{experts}.gate.kernel", f"{experts}.up.kernel"),
            _interleaved(f"{mlp}.experts.gate_up_proj_bias", f"{experts}.gate.bias", f"{experts}.up.bias"),
            same(f"{mlp}.experts.down_proj", f"{experts}.down.kernel"),
            same(f"{mlp}.experts.down_proj_bias", f"{experts}.down.bias"),
            same("model.layers.{layer}.self_attn.sinks", f"{here}.attention.sinks"),
        ]
        return gated_table(config, biases="QKVO" if config.attention_bias else "", mlp=rules)


def _interleaved(name: str, gate: str, up: str) -> Rule:
    """Map gates and up-projections of all experts whose hidden units alternate, `[E,(D,)2F]`."""

    def write(gate: Any, up: Any) -> Any:
        stack = np.stack if isinstance(gate, np.ndarray) else jnp.stack
        return stack([gate, up], axis=-1).reshape(*gate.shape[:-1], -1)

    return Rule(name, (gate, up), lambda tensor, shapes: (tensor[..., 0::2], tensor[..., 1::2]), write)
