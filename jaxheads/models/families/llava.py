"""LLaVA (Liu et al. 2023) and LLaVA-NeXT: the language model alone, which is of a family of its own.

The network is that family's: it takes tokens and no pixels, and answers as the whole model does about texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from flax import nnx

from ..loading.transformers_import import completed_config
from ..loading.weights import Rule, Table
from ..network import Network
from .bases.gated_decoder import GatedConfig
from .bases.reading import head_of, inner_config, refuse_unknown

_IMAGES = frozenset(
    "vision_config image_token_index image_token_id image_seq_length projector_hidden_act vision_feature_layer "
    "vision_feature_select_strategy multimodal_projector_bias image_grid_pinpoints use_image_newline_parameter "
    "ignore_index".split()
)
"""Fields for images, which the language model does not use."""

_UNUSED = r"(model\.)?(vision_tower|multi_modal_projector|image_newline)(\..*)?"


@dataclass(frozen=True)
class LlavaConfig:
    """Reader of a Hugging Face `LlavaConfig`, which gives the config of its language model's family."""

    model_type: ClassVar[str] = "llava"
    heads: ClassVar[Mapping[str, str]] = {"LlavaForConditionalGeneration": "lm", "LlavaModel": "none"}
    text_ties: ClassVar[bool] = True
    """Whether embeddings are tied where `text_config` alone says so."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> GatedConfig:
        """Read the contents of a config.json: its `text_config`, with transformers' defaults of what that leaves out.

        Raises:
            ValueError: for a field that is not understood, here or in `text_config`, or a language model of a family
                that is not covered.
        """
        refuse_unknown(config, {"text_config", "tie_word_embeddings", "vocab_size", "pad_token_id"} | _IMAGES)
        head = head_of(config, cls.heads)
        text = inner_config(config, "text_config")
        family = text.get("model_type", "llama")
        reader: Any = _families()[family].config_type if family in _families() else None
        if reader is None or not issubclass(reader, GatedConfig):
            raise ValueError(f"the language model of this {cls.model_type} is of the family {family!r}, not covered")
        tied = bool(config.get("tie_word_embeddings") or (cls.text_ties and text.get("tie_word_embeddings")))
        whole = completed_config(family, {**text, "tie_word_embeddings": tied})
        return replace(cast(Any, reader).from_hf({**whole, "architectures": None, "model_type": family}), head=head)


class LlavaNextConfig(LlavaConfig):
    """Reader of a Hugging Face `LlavaNextConfig`."""

    model_type = "llava_next"
    heads: ClassVar = {"LlavaNextForConditionalGeneration": "lm", "LlavaNextModel": "none"}
    text_ties = False


class Llava:
    """Maker of the language model's network."""

    config_type = LlavaConfig

    def __new__(cls, config: Any, *, rngs: nnx.Rngs) -> Network:
        return _families()[config.model_type](config, rngs=rngs)

    @staticmethod
    def table(config: Any) -> Table:
        """Return the table of the language model's tensors; the vision tower's are passed over."""
        text = _families()[config.model_type].table(config)
        rename = (
            (r"^(model\.)?language_model\.(model\.)?(?=lm_head\.)", ""),
            (r"^(model\.)?language_model\.(model\.)?", "model."),
            *text.rename,
            (r"^model\.(?!vision_tower|multi_modal_projector|image_newline)", "model.language_model."),
        )
        unused = {_inner(pattern, r"model\."): reason for pattern, reason in text.passed_over.items()}
        unused[_UNUSED] = "for images, which the language model lacks"
        copies = {_inner(name): _inner(original) for name, original in text.copies.items()}
        return Table(_all_inner(text.rules), unused, rename, copies, _all_inner(text.alternatives))


class LlavaNext(Llava):
    """Maker of the language model's network."""

    config_type = LlavaNextConfig


def _inner(name: str, prefix: str = "model.") -> str:
    """Return a tensor's name (or, with `prefix` as a pattern, the pattern of names) in the whole model."""
    return prefix + prefix.replace("model", "language_model") + name[len(prefix) :] if name.startswith(prefix) else name


def _all_inner(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(replace(rule, name=_inner(rule.name)) for rule in rules)


def _families() -> Mapping[str, Any]:
    from . import FAMILIES  # which finds this module by name

    return FAMILIES
