"""Mistral (Jiang et al. 2023): Llama whose queries see a window of positions, in releases that say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flax import nnx

from ..loading.weights import Table
from .bases.gated_decoder import GatedConfig, GatedDecoder, attention_of, common, gated_table, rotary_of, window_of
from .bases.reading import head_of, refuse_unknown

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
"""What transformers takes where a config says nothing."""


@dataclass(frozen=True)
class MistralConfig(GatedConfig):
    """The fields of a Hugging Face `MistralConfig` that change what is computed; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "mistral"

    hidden_act: str
    sliding_window: int | None

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "MistralConfig":
        """From the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a missing field, one that is not understood, a rope type that is not covered, or an empty
                window.
        """
        refuse_unknown(given, cls.fields_of_file())
        given = {**_DEFAULTS, **given}
        fields = common(given)
        return cls(
            **fields,
            rotary=rotary_of(given, fields["head_dim"], fields["max_position_embeddings"]),
            hidden_act=given.get("hidden_act", "silu"),
            sliding_window=window_of(given),
            head=head_of(given, {"MistralForCausalLM": "lm", "MistralModel": "none"}),
        )


class Mistral(GatedDecoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries, a gated MLP and, perhaps, a window."""

    config_type = MistralConfig

    def __init__(self, config: MistralConfig, *, rngs: nnx.Rngs):
        super().__init__(config, partial(attention_of, config, window=config.sliding_window), rngs=rngs)

    @staticmethod
    def table(config: MistralConfig) -> Table:
        """The tensors of a Mistral checkpoint: those of Llama."""
        return gated_table(config)
