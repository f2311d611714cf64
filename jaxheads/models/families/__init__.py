"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .bert import Bert
from .gpt2 import GPT2
from .llama import Llama

FAMILIES = {family.config_type.model_type: family for family in (Llama, GPT2, Bert)}
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = ["FAMILIES", "GPT2", "Bert", "Llama"]
