"""StarCoder 2 (Lozhkov et al. 2024): LayerNorm, rotary positions, grouped queries, a plain MLP, biases, a window."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..layers import PlainMLP, layer_norm
from ..loading.weights import Table, dense
from .bases.class_heads import OF_DECODERS, ClassNames, decoder_head
from .bases.gated_decoder import (
    GatedDecoder,
    GatedSizes,
    attention_of,
    gated_table,
    rotary_of,
    sizes_of,
    window_of,
)
from .bases.reading import refuse_unknown

_DEFAULTS = {"num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True}
"""transformers' defaults of absent fields."""

_UNUSED = frozenset(
    "residual_dropout embedding_dropout attention_softmax_in_fp32 scale_attention_softmax_in_fp32 "
    "layer_norm_epsilon".split()
)
"""Fields of training, and a copy of `norm_epsilon`."""


@dataclass(frozen=True)
class Starcoder2Config(GatedSizes):
    """The fields of a Hugging Face `Starcoder2Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "starcoder2"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {name: OF_DECODERS[name] for name in ("classes", "token_classes")}

    hidden_act: str
    norm_epsilon: float
    use_bias: bool
    sliding_window: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Starcoder2Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        neutral = {"mlp_type": "default", "norm_type": "layer_norm", "scale_attn_weights": True}
        refuse_unknown(config, cls.fields_of_file() | _UNUSED, neutral=neutral)
        fields = sizes_of({**_DEFAULTS, **config})
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "gelu_pytorch_tanh"),
            norm_epsilon=config.get("norm_epsilon", 1e-5),
            use_bias=config.get("use_bias", True),
            sliding_window=window_of(config),
            **decoder_head(config, "Starcoder2", cls.class_heads),
        )


class Starcoder2(GatedDecoder):
    """A pre-norm decoder with LayerNorm, rotary positions, grouped queries, a plain MLP and, optionally, a window."""

    config_type = Starcoder2Config

    def __init__(self, config: Starcoder2Config, *, rngs: nnx.Rngs):
        c = config

        def norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
            return layer_norm(c.hidden_size, c.norm_epsilon, rngs)

        def mlp(rngs: nnx.Rngs) -> PlainMLP:
            return PlainMLP(c.hidden_size, c.intermediate_size, c.hidden_act, bias=c.use_bias, rngs=rngs)

        attention = partial(attention_of, c, bias=c.use_bias, window=c.sliding_window)
        super().__init__(c, attention, norm=norm, mlp=mlp, rngs=rngs)

    @staticmethod
    def table(config: Starcoder2Config) -> Table:
        """Return the table of a StarCoder 2 checkpoint's tensors."""
        here, at = "decoder.blocks.mlp", "model.layers.{layer}.mlp"
        up, down = (
            dense(f"{at}.{stored}", f"{here}.{matrix}", bias=config.use_bias)
            for stored, matrix in (("c_fc", "up"), ("c_proj", "down"))
        )
        return gated_table(config, norm_bias=True, biases="QKVO" if config.use_bias else "", mlp=[*up, *down])
