"""Mistral (Jiang et al. 2023): Llama with, in some releases, a window of positions that queries attend to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.class_heads import decoder_head
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of, window_of
from .bases.reading import refuse_unknown

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
"""transformers' defaults of absent fields."""


@dataclass(frozen=True)
class MistralConfig(GatedConfig):
    """The fields of a Hugging Face `MistralConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "mistral"

    hidden_act: str
    sliding_window: int | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MistralConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or an empty
                window.
        """
        refuse_unknown(config, cls.fields_of_file())
        config = {**_DEFAULTS, **config}
        fields = common(config)
        return cls(
            **fields,
            rotary=rotary_of(config, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=config.get("hidden_act", "silu"),
            sliding_window=window_of(config),
            **decoder_head(config, "Mistral", cls.class_heads),
        )


class Mistral(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries, a gated MLP and, optionally, a window."""

    config_type = MistralConfig

    def __init__(self, config: MistralConfig, *, rngs: nnx.Rngs):
        super().__init__(config, partial(attention_of, config, window=config.sliding_window), rngs=rngs)

    @staticmethod
    def table(config: MistralConfig) -> Table:
        """Return the table of a Mistral checkpoint's tensors, which are named like Llama's."""
        return gated_table(config)
