"""Gemma 3 as it is released where it also sees images: its language model, which is `gemma3_text`'s."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..loading.weights import Table
from .bases.reading import head_of, refuse_unknown, required
from .gemma3_text import Gemma3Text, Gemma3TextConfig, gemma3_table

_IMAGES = frozenset(
    "vision_config mm_tokens_per_image boi_token_index eoi_token_index image_token_index "
    "boi_token_id eoi_token_id image_token_id".split()
)
"""What a config says of images: without one in the batch none of it is used."""


@dataclass(frozen=True)
class Gemma3Config(Gemma3TextConfig):
    """The fields of the `text_config` in a Hugging Face `Gemma3Config`; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gemma3"

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "Gemma3Config":
        """From the contents of a config.json.

        Raises:
            ValueError: as `Gemma3TextConfig.from_hf` does for `text_config`; for another field that is not understood.
        """
        refuse_unknown(given, {"text_config", "tie_word_embeddings"} | _IMAGES)
        head = head_of(given, {"Gemma3ForConditionalGeneration": "lm", "Gemma3Model": "none"})
        (text,) = required(given, "text_config")
        tied = {"tie_word_embeddings": given.get("tie_word_embeddings", True)}
        # The head of this architecture has no cap, whatever the language model's config says.
        own = {"architectures": ["Gemma3ForCausalLM" if head == "lm" else "Gemma3TextModel"]}
        read = Gemma3TextConfig.from_hf({**text, **tied, **own, "final_logit_softcapping": None})
        return cls(**{field.name: getattr(read, field.name) for field in fields(cls)})


class Gemma3(Gemma3Text):
    """The language model alone: it takes tokens and no pixels."""

    config_type = Gemma3Config

    @staticmethod
    def table(config: Gemma3TextConfig) -> Table:
        """The tensors of the language model in a Gemma 3 checkpoint; those that read images are passed over."""
        found = gemma3_table(config, "model.language_model")
        images = {r"(model\.)?(vision_tower|multi_modal_projector)\..*": "reads images, and there are none"}
        rename = (
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^language_model\.(model\.)?", "model.language_model."),
        )
        return Table(found.rules, {**found.passed_over, **images}, rename, found.copies)
