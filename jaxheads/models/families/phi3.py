"""Phi 3 and 4 (Abdin et al. 2024): Llama with joined projections and, in models of long texts, LongRoPE."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ...checks import shown
from ..loading.config_fields import is_positive
from ..loading.weights import Table, dense, fused_linear, heads_out
from ..positions import Rotary
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    GatedConfig,
    GatedDecoder,
    attention_of,
    common,
    gated_table,
    partial_rotary_of,
    window_of,
)
from .bases.reading import inner_config, refuse_unknown

_LONG = ("longrope", "su", "yarn")
"""Names of LongRoPE, of which transformers takes the last two for old ones of the first."""

_OF_ALL = ("rope_theta", "partial_rotary_factor")
"""Parameters of all rope types."""

_OF_LONG = frozenset(
    "rope_type type short_factor long_factor factor attention_factor original_max_position_embeddings".split()
).union(_OF_ALL)
"""Parameters of LongRoPE."""

_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Phi3Config(GatedConfig):
    """The fields of a Hugging Face `Phi3Config` that affect the computation; `head` is "lm" or "none".

    With LongRoPE `max_position_embeddings` is the length up to which the model was first trained. Longer texts rotate
    by other frequencies at all positions, so that the length of a text would decide what its first token does.
    """

    model_type: ClassVar[str] = "phi3"

    hidden_act: str
    sliding_window: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Phi3Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        neutral = {"attention_bias": False, "mlp_bias": False, "lm_head_bias": False}
        neutral |= {"full_attn_mod": 1, "interpolate_factor": 1}  # of Phi 4
        understood = cls.fields_of_file() | {"partial_rotary_factor", "original_max_position_embeddings"}
        refuse_unknown(config, understood, neutral=neutral)
        config = {**_DEFAULTS, **config}
        fields = common(config)
        rotary = _rotary(config, fields["head_dim"])
        if rotary.kind == "longrope":
            context = min(config["max_position_embeddings"], config["original_max_position_embeddings"])
            fields["max_position_embeddings"] = context
        return cls(
            **fields,
            rotary=rotary,
            hidden_act=config.get("hidden_act", "silu"),
            sliding_window=window_of(config),
            **decoder_head(config, "Phi3", cls.class_heads, padding=32000),
        )


def _rotary(config: Mapping[str, Any], head: int) -> Rotary:
    """Read the rotary embedding: LongRoPE's for texts of the first training's length, or a plain one."""
    stated = inner_config(config, "rope_scaling") or inner_config(config, "rope_parameters")
    kind = stated.get("rope_type") or stated.get("type") or "default"
    if kind not in (*_LONG, "default"):
        raise ValueError(f"rope type {shown(kind)} is not covered; covered of phi3 are default, longrope")
    settings = {name: value for name, value in stated.items() if kind == "default" or name in _OF_ALL}
    plain = partial_rotary_of({**config, "rope_scaling": None, "rope_parameters": settings}, head, 0, 1.0)
    return plain if kind == "default" else _long(config, stated, plain)


def _long(config: Mapping[str, Any], stated: Mapping[str, Any], plain: Rotary) -> Rotary:
    """Return LongRoPE's rotary embedding of texts that are no longer than the first training's (Ding et al. 2024)."""
    if unknown := set(stated) - _OF_LONG:
        raise ValueError(f"rope type 'longrope' does not take {sorted(unknown)}")
    short, count = stated.get("short_factor"), plain.dimensions // 2
    if not isinstance(short, list | tuple) or len(short) != count or not all(map(is_positive, short)):
        raise ValueError(f"short_factor of rope type 'longrope' must be {count} numbers above 0, got {shown(short)}")
    original = config["original_max_position_embeddings"]
    factor = stated.get("factor") or config["max_position_embeddings"] / original
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    amplitude = stated.get("attention_factor") or usual
    if not is_positive(amplitude):
        raise ValueError(f"attention_factor of rope type 'longrope' must be a number above 0, got {shown(amplitude)}")
    parameters = (("attention_factor", float(amplitude)), ("short_factor", tuple(map(float, short))))
    return Rotary(plain.base, plain.dimensions, "longrope", parameters)


class Phi3(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries, a gated MLP and, optionally, a window."""

    config_type = Phi3Config

    def __init__(self, config: Phi3Config, *, rngs: nnx.Rngs):
        super().__init__(config, partial(attention_of, config, window=config.sliding_window), rngs=rngs)

    @staticmethod
    def table(config: Phi3Config) -> Table:
        """Return the table of a Phi 3 checkpoint's tensors; it joins query, key and value, and gate and up."""
        here, at = "decoder.blocks", "model.layers.{layer}"
        attention = [
            fused_linear(f"{at}.self_attn.qkv_proj.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            heads_out(f"{at}.self_attn.o_proj.weight", f"{here}.attention.W_O"),
        ]
        mlp = [
            fused_linear(f"{at}.mlp.gate_up_proj.weight", f"{here}.mlp.gate.kernel", f"{here}.mlp.up.kernel"),
            *dense(f"{at}.mlp.down_proj", f"{here}.mlp.down", bias=False),
        ]
        return gated_table(config, attention=attention, mlp=mlp)
