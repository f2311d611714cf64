"""Gemma 3 in its release for texts and images: the language model alone, which is that of `gemma3_text`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..loading.weights import Table
from .bases.reading import head_of, inner_config, refuse_unknown, required
from .gemma3_text import Gemma3Text, Gemma3TextConfig, gemma3_table

_IMAGES = frozenset(
    "vision_config mm_tokens_per_image boi_token_index eoi_token_index image_token_index "
    "boi_token_id eoi_token_id image_token_id".split()
)
"""Fields for images, which the language model does not use."""


@dataclass(frozen=True)
class Gemma3Config(Gemma3TextConfig):
    """The fields of the `text_config` in a Hugging Face `Gemma3Config`; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gemma3"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Gemma3Config":
        """Read the contents of a config.json.

        Raises:
            ValueError: as `Gemma3TextConfig.from_hf` does for `text_config`; for another field that is not understood.
        """
        refuse_unknown(config, {"text_config", "tie_word_embeddings"} | _IMAGES)
        head = head_of(config, {"Gemma3ForConditionalGeneration": "lm", "Gemma3Model": "none"})
        required(config, "text_config")
        text = inner_config(config, "text_config")
        tied = {"tie_word_embeddings": config.get("tie_word_embeddings", True)}
        # The head of this architecture has no cap, even if the language model's config has one.
        named = {"architectures": ["Gemma3ForCausalLM" if head == "lm" else "Gemma3TextModel"]}
        read = Gemma3TextConfig.from_hf({**text, **tied, **named, "final_logit_softcapping": None})
        return cls(**{field.name: getattr(read, field.name) for field in fields(cls)})


class Gemma3(Gemma3Text):
    """The language model of Gemma 3, which takes tokens and no pixels."""

    config_type = Gemma3Config

    @staticmethod
    def table(config: Gemma3TextConfig) -> Table:
        """Return the table of the language model's tensors; the vision tower's are passed over."""
        text = gemma3_table(config, "model.language_model")
        images = {r"(model\.)?(vision_tower|multi_modal_projector)\..*": "for images, which the language model lacks"}
        rename = (
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^language_model\.(model\.)?", "model.language_model."),
        )
        return Table(text.rules, {**text.passed_over, **images}, rename, text.copies)
