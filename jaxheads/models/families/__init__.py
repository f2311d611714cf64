"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .attention_only import AttentionOnly
from .bart import Bart, Marian
from .bert import Bert
<<<<<<< HEAD
from .dinov2 import Dinov2, Dinov2WithRegisters
from .gemma2 import Gemma2
from .gemma3 import Gemma3
from .gemma3_text import Gemma3Text
=======
from .bloom import Bloom
>>>>>>> fam-parallel
from .gpt2 import GPT2
from .gpt_neox import GPTNeoX
from .gptj import GPTJ
from .llama import Llama
<<<<<<< HEAD
from .mistral import Mistral
from .qwen2 import Qwen2
from .qwen3 import Qwen3
=======
from .opt import OPT
>>>>>>> fam-parallel
from .t5 import T5
from .vit import DeiT, ViT
from .whisper import Whisper

<<<<<<< HEAD
FAMILIES = {
    family.config_type.model_type: family
    for family in (
        Llama,
        GPT2,
        Bert,
        T5,
        Bart,
        Marian,
        Mistral,
        Qwen2,
        Qwen3,
        Gemma2,
        Gemma3,
        Gemma3Text,
        Whisper,
        ViT,
        DeiT,
        Dinov2,
        Dinov2WithRegisters,
        AttentionOnly,
    )
}
=======
_ALL = (
    Llama,
    GPT2,
    Bert,
    T5,
    Bart,
    Marian,
    AttentionOnly,
    GPTNeoX,
    GPTJ,
    OPT,
    Bloom,
)

FAMILIES = {family.config_type.model_type: family for family in _ALL}
>>>>>>> fam-parallel
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = [
    "FAMILIES",
<<<<<<< HEAD
    "Llama",
    "GPT2",
    "Bert",
    "T5",
    "Bart",
    "Marian",
    "Mistral",
    "Qwen2",
    "Qwen3",
    "Gemma2",
    "Gemma3",
    "Gemma3Text",
    "Whisper",
    "ViT",
    "DeiT",
    "Dinov2",
    "Dinov2WithRegisters",
    "AttentionOnly",
=======
    "GPT2",
    "GPTJ",
    "OPT",
    "T5",
    "AttentionOnly",
    "Bart",
    "Bert",
    "Bloom",
    "GPTNeoX",
    "Llama",
    "Marian",
>>>>>>> fam-parallel
]
