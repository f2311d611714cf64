"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .attention_only import AttentionOnly
from .bart import Bart, Marian
from .bert import Bert
from .clip import Clip
from .clip_towers import ClipText, ClipVision
from .dinov2 import Dinov2, Dinov2WithRegisters
from .gpt2 import GPT2
from .llama import Llama
from .t5 import T5
from .vit import DeiT, ViT

FAMILIES = {
    family.config_type.model_type: family
    for family in (
        *(Llama, GPT2, Bert, T5, Bart, Marian, AttentionOnly),
        *(ViT, DeiT, Dinov2, Dinov2WithRegisters, Clip, ClipText, ClipVision),
    )
}
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = [
    "FAMILIES",
    "GPT2",
    "T5",
    "AttentionOnly",
    "Bart",
    "Bert",
    "Clip",
    "ClipText",
    "ClipVision",
    "DeiT",
    "Dinov2",
    "Dinov2WithRegisters",
    "Llama",
    "Marian",
    "ViT",
]
