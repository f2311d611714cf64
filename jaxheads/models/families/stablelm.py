"""StableLM 3B and 2 (Bellagente et al. 2024): Llama with LayerNorm, of whose heads a share rotates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..layers import Attention, PerHeadLayerNorm, layer_norm
from ..loading.weights import Rule, Table, same
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    PRE_NORMS,
    GatedDecoder,
    GatedSizes,
    attention_of,
    gated_table,
    parallel,
    partial_rotary_of,
    pre_norm,
    sizes_of,
)
from .bases.reading import refuse_unknown

_SHARE = 0.25
"""Default share of a head's dimensions that rotate."""


@dataclass(frozen=True)
class StableLmConfig(GatedSizes):
    """The fields of a Hugging Face `StableLmConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "stablelm"

    hidden_act: str
    layer_norm_eps: float
    use_qkv_bias: bool
    qk_layernorm: bool
    use_parallel_residual: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "StableLmConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        understood = cls.fields_of_file() - {"head_dim"} | {"partial_rotary_factor", "hidden_dropout"}
        refuse_unknown(config, understood)
        fields = sizes_of({"num_key_value_heads": 32, "max_position_embeddings": 4096, **config})
        return cls(
            **fields,
            rotary=partial_rotary_of(config, fields["head_dim"], fields["max_position_embeddings"], _SHARE),
            hidden_act=config.get("hidden_act", "silu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            use_qkv_bias=config.get("use_qkv_bias", False),
            qk_layernorm=config.get("qk_layernorm", False),
            use_parallel_residual=config.get("use_parallel_residual", False),
            **decoder_head(config, "StableLm", cls.class_heads),
        )


class StableLm(GatedDecoder):
    """A decoder with LayerNorm, partly rotating heads, grouped queries and a gated MLP, in sequence or in parallel."""

    config_type = StableLmConfig

    def __init__(self, config: StableLmConfig, *, rngs: nnx.Rngs):
        c = config

        def norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
            return layer_norm(c.hidden_size, c.layer_norm_eps, rngs)

        def attention(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            counts = {"q_norm": c.num_attention_heads, "k_norm": c.num_key_value_heads} if c.qk_layernorm else {}
            norms = {
                name: PerHeadLayerNorm(heads, c.head_dim, c.layer_norm_eps, rngs) for name, heads in counts.items()
            }
            return attention_of(c, rngs, *layer, bias="QKV" if c.use_qkv_bias else "", **norms)

        arrange = parallel if c.use_parallel_residual else pre_norm
        super().__init__(c, attention, norm=norm, arrange=arrange, rngs=rngs)

    @staticmethod
    def table(config: StableLmConfig) -> Table:
        """Return the table of a StableLM checkpoint's tensors; every head has its own norm of queries or keys."""
        norms = {"input_layernorm": "attention_norm"} if config.use_parallel_residual else PRE_NORMS
        of_heads: list[Rule] = [
            same(
                f"model.layers.{{layer}}.self_attn.{letter}_layernorm.norms.{{head}}.weight",
                f"decoder.blocks.attention.{letter}_norm.scale",
            )
            for letter in ("qk" if config.qk_layernorm else "")
        ]
        biases = "QKV" if config.use_qkv_bias else ""
        return gated_table(config, norms=norms, norm_bias=True, biases=biases, more=of_heads)
