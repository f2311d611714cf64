"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import (
    GatedConfig,
    GatedDecoder,
    attention_of,
    common,
    gated_table,
    layer_types_of,
    rotary_of,
    window_settings,
)
from .bases.reading import refuse_unknown

WINDOW_FIELDS = frozenset(("use_sliding_window", "max_window_layers"))
"""Fields of Qwen's configs for windows, beside `sliding_window` and `layer_types`."""

_DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class Qwen2Config(GatedConfig):
    """The fields of a Hugging Face `Qwen2Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "qwen2"
    answers_root = "transformer"

    hidden_act: str
    sliding_window: int | None
    layer_types: tuple[str, ...]

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen2Config":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or layer types
                that don't fit the windows.
        """
        refuse_unknown(config, cls.fields_of_file() | WINDOW_FIELDS, neutral={"use_mrope": False})
        config = windows_of({**_DEFAULTS, **config})
        fields = common(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            sliding_window=config["sliding_window"],
            layer_types=config["layer_types"],
            **decoder_head(config, "Qwen2", cls.class_heads),
        )


def windows_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Qwen config with `layer_types` spelt out, and `sliding_window` None unless it is used.

    If it is used, the first `max_window_layers` layers have no window.
    """
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    config = {**config, "sliding_window": window}
    unwindowed = config.get("max_window_layers", 28)
    return {**config, "layer_types": layer_types_of(config, lambda layer: window is not None and layer >= unwindowed)}


class Qwen2(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries with biases, and a gated MLP."""

    config_type = Qwen2Config

    def __init__(self, config: Qwen2Config, *, rngs: nnx.Rngs):
        attention = partial(attention_of, config, bias="QKV")
        super().__init__(config, attention, settings=window_settings(config), rngs=rngs)

    @staticmethod
    def table(config: Qwen2Config) -> Table:
        """Return the table of a Qwen2 checkpoint's tensors."""
        return gated_table(config, biases="QKV")
