"""OLMo 3 (OLMo Team 2025): OLMo 2 with a window in most layers, whose rotary positions are not scaled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx

from ..positions import Rotary
from .bases.class_heads import decoder_head
from .bases.gated_decoder import FULL, common, layer_types_of, window_of, window_settings
from .bases.layer_rotaries import rotaries_by_type, rotary_settings
from .bases.reading import refuse_unknown
from .olmo2 import Olmo2, Olmo2Config

_BASE = 5e5
"""Default wavelength base."""


@dataclass(frozen=True)
class Olmo3Config(Olmo2Config):
    """The fields of a Hugging Face `Olmo3Config` that affect the computation; `head` is "lm" or "none".

    `rotary` belongs to layers without a window, `local_rotary` to layers with a window.
    """

    model_type: ClassVar[str] = "olmo3"

    sliding_window: int | None
    layer_types: tuple[str, ...]
    local_rotary: Rotary

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Olmo3Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or layer types
                that don't fit the window.
        """
        refuse_unknown(config, cls.fields_of_file() - {"local_rotary"})
        config = {"rms_norm_eps": 1e-5, "sliding_window": 4096, **config}
        fields, bases = common(config), (config.get("rope_theta") or _BASE, _BASE)
        rotary, local = rotaries_by_type(config, fields["head_dim"], fields["max_position_embeddings"], bases)
        return cls(
            **fields,
            rotary=rotary,
            local_rotary=local,
            hidden_act=config.get("hidden_act", "silu"),
            attention_bias=config.get("attention_bias", False),
            sliding_window=window_of(config),
            layer_types=layer_types_of(config, lambda layer: (layer + 1) % 4 != 0),
            **decoder_head(config, "Olmo3", cls.class_heads, padding=1),
        )


class Olmo3(Olmo2):
    """A decoder that norms what its heads and MLPs write, with a window in some layers."""

    config_type: ClassVar[Any] = Olmo3Config

    def __init__(self, config: Olmo3Config, *, rngs: nnx.Rngs):
        rotaries = [config.rotary if kind == FULL else config.local_rotary for kind in config.layer_types]
        settings = rotary_settings(rotaries, config.rotary.dimensions) | (window_settings(config) or {})
        super().__init__(config, settings=settings, rngs=rngs)
