"""Families of models, one file each: a frozen config, the network, and the table of its checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..loading.weights import Table
    from ..network import Network


class Family(Protocol):
    """The class of a family's network, with the type of its config and the table of its tensors."""

    config_type: Any

    def __call__(self, config: Any, *, rngs: Any) -> Network: ...
    def table(self, config: Any) -> Table: ...


_CLASSES: Mapping[str, tuple[str, str]] = {
    "albert": ("albert", "Albert"),
    "attention_only": ("attention_only", "AttentionOnly"),
    "bart": ("bart", "Bart"),
    "marian": ("bart", "Marian"),
    "bert": ("bert", "Bert"),
    "bloom": ("bloom", "Bloom"),
    "clip": ("clip", "Clip"),
    "clip_text_model": ("bases.clip_towers", "ClipText"),
    "clip_vision_model": ("bases.clip_towers", "ClipVision"),
    "codegen": ("codegen", "CodeGen"),
    "cohere": ("cohere", "Cohere"),
    "deberta": ("deberta", "Deberta"),
    "deberta-v2": ("deberta", "DebertaV2"),
    "dinov2": ("dinov2", "Dinov2"),
    "dinov2_with_registers": ("dinov2", "Dinov2WithRegisters"),
    "distilbert": ("distilbert", "DistilBert"),
    "electra": ("electra", "Electra"),
    "falcon": ("falcon", "Falcon"),
    "gemma": ("gemma", "Gemma"),
    "gemma2": ("gemma2", "Gemma2"),
    "gemma3": ("gemma3", "Gemma3"),
    "gemma3_text": ("gemma3_text", "Gemma3Text"),
    "gpt2": ("gpt2", "GPT2"),
    "gpt_bigcode": ("gpt_bigcode", "GPTBigCode"),
    "gpt_neo": ("gpt_neo", "GPTNeo"),
    "gpt_neox": ("gpt_neox", "GPTNeoX"),
    "gpt_oss": ("gpt_oss", "GptOss"),
    "gptj": ("gptj", "GPTJ"),
    "granite": ("granite", "Granite"),
    "llama": ("llama", "Llama"),
    "llava": ("llava", "Llava"),
    "llava_next": ("llava", "LlavaNext"),
    "m2m_100": ("m2m_100", "M2M100"),
    "mistral": ("mistral", "Mistral"),
    "mixtral": ("mixtral", "Mixtral"),
    "modernbert": ("modernbert", "ModernBert"),
    "mpnet": ("mpnet", "MPNet"),
    "mpt": ("mpt", "Mpt"),
    "olmo": ("olmo", "Olmo"),
    "olmo2": ("olmo2", "Olmo2"),
    "olmo3": ("olmo3", "Olmo3"),
    "opt": ("opt", "OPT"),
    "phi": ("phi", "Phi"),
    "phi3": ("phi3", "Phi3"),
    "qwen2": ("qwen2", "Qwen2"),
    "qwen2_moe": ("qwen2_moe", "Qwen2Moe"),
    "qwen3": ("qwen3", "Qwen3"),
    "qwen3_moe": ("qwen3_moe", "Qwen3Moe"),
    "camembert": ("roberta", "Camembert"),
    "roberta": ("roberta", "Roberta"),
    "xlm-roberta": ("roberta", "XLMRoberta"),
    "smollm3": ("smollm3", "SmolLM3"),
    "stablelm": ("stablelm", "StableLm"),
    "mt5": ("t5", "MT5"),
    "siglip": ("siglip", "Siglip"),
    "siglip_text_model": ("bases.siglip_towers", "SiglipText"),
    "siglip_vision_model": ("bases.siglip_towers", "SiglipVision"),
    "starcoder2": ("starcoder2", "Starcoder2"),
    "t5": ("t5", "T5"),
    "deit": ("vit", "DeiT"),
    "vit": ("vit", "ViT"),
    "whisper": ("whisper", "Whisper"),
}
"""Module and class of each family's network, by the `model_type` of a Hugging Face config."""


_OLDER: Mapping[str, str] = {"RefinedWeb": "falcon", "RefinedWebModel": "falcon"}
"""Module of the family that a first release had another `model_type` for, with other names of fields."""


def in_todays_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json's contents by the family's present `model_type` and names; unchanged if they are these."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _OLDER:
        return dict(config)
    return import_module(f".{_OLDER[kind]}", __package__).from_older(config)


class _Families(Mapping[str, Family]):
    """Mapping from `model_type` to network class. A family's module is imported when it is first looked up."""

    def __getitem__(self, model_type: Any) -> Family:
        module, name = _CLASSES[model_type]
        return getattr(import_module(f".{module}", __package__), name)

    def __contains__(self, model_type: object) -> bool:
        return model_type in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)

    def by_architecture(self, architecture: str) -> str | None:
        """Return the `model_type` of a class of transformers ("BertForMaskedLM"), of any head; None if unknown."""
        stem = re.sub(r"^(TF|Flax)|(For[A-Z]\w*|MTModel|(With)?LMHeadModel|Model)$", "", architecture).lower()
        return next((kind for kind, (_, name) in _CLASSES.items() if name.lower() == stem), None)


FAMILIES = _Families()
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = ["FAMILIES", "Family", "in_todays_words"]
