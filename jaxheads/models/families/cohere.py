"""Command-R (Cohere 2024): parallel layers, LayerNorm without bias, positions that rotate in pairs, scaled logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..layers import Attention, PerHeadLayerNorm, layer_norm
from ..loading.head_order import in_pairs
from ..loading.weights import Rule, Table, heads_bias, heads_in, heads_out, same
from .bases.class_heads import ClassNames, decoder_head
from .bases.gated_decoder import (
    GatedDecoder,
    GatedSizes,
    attention_of,
    gated_table,
    parallel,
    rotary_of,
    sizes_of,
)
from .bases.reading import refuse_unknown

_DEFAULTS = {"max_position_embeddings": 8192, "tie_word_embeddings": True}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class CohereConfig(GatedSizes):
    """The fields of a Hugging Face `CohereConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "cohere"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {}

    hidden_act: str
    layer_norm_eps: float
    attention_bias: bool
    use_qk_norm: bool
    logit_scale: float

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CohereConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        refuse_unknown(config, cls.fields_of_file() | {"model_max_length"})
        fields = sizes_of({**_DEFAULTS, **config})
        return cls(
            **fields,
            rotary=rotary_of({"rope_theta": 5e5, **config}, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            attention_bias=config.get("attention_bias", False),
            use_qk_norm=config.get("use_qk_norm", False),
            logit_scale=config.get("logit_scale", 0.0625),
            **decoder_head(config, "Cohere", cls.class_heads),
        )


class Cohere(GatedDecoder):
    """A parallel decoder with LayerNorm, rotary positions, grouped queries and a gated MLP."""

    config_type = CohereConfig

    def __init__(self, config: CohereConfig, *, rngs: nnx.Rngs):
        c = config

        def attention(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            counts = {"q_norm": c.num_attention_heads, "k_norm": c.num_key_value_heads} if c.use_qk_norm else {}
            norms = {
                name: PerHeadLayerNorm(heads, c.head_dim, c.layer_norm_eps, rngs) for name, heads in counts.items()
            }
            return attention_of(c, rngs, *layer, bias=c.attention_bias, **norms)

        def norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
            return layer_norm(c.hidden_size, c.layer_norm_eps, rngs, bias=False)

        super().__init__(c, attention, norm=norm, arrange=parallel, rngs=rngs)
        self.logits_factor = c.logit_scale

    @staticmethod
    def table(config: CohereConfig) -> Table:
        """Return the table of a Command-R checkpoint's tensors; queries and keys rotate in pairs."""
        here, at = "decoder.blocks.attention", "model.layers.{layer}.self_attn"
        paired = partial(in_pairs, dimensions=config.head_dim)
        rules: list[Rule] = [
            *(paired(heads_in(f"{at}.{letter.lower()}_proj.weight", f"{here}.W_{letter}")) for letter in "QK"),
            heads_in(f"{at}.v_proj.weight", f"{here}.W_V"),
            heads_out(f"{at}.o_proj.weight", f"{here}.W_O"),
        ]
        if config.attention_bias:
            rules += [paired(heads_bias(f"{at}.{letter.lower()}_proj.bias", f"{here}.b_{letter}")) for letter in "QK"]
            rules += [heads_bias(f"{at}.v_proj.bias", f"{here}.b_V"), same(f"{at}.o_proj.bias", f"{here}.b_O")]
        if config.use_qk_norm:
            rules += [paired(same(f"{at}.{letter}_norm.weight", f"{here}.{letter}_norm.scale")) for letter in "qk"]
        return gated_table(config, norms={"input_layernorm": "attention_norm"}, attention=rules)
