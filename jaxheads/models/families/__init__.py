"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .albert import Albert
from .attention_only import AttentionOnly
from .bart import Bart, Marian
from .bases.clip_towers import ClipText, ClipVision
from .bert import Bert
from .bloom import Bloom
from .clip import Clip
from .dinov2 import Dinov2, Dinov2WithRegisters
from .distilbert import DistilBert
from .gemma2 import Gemma2
from .gemma3 import Gemma3
from .gemma3_text import Gemma3Text
from .gpt2 import GPT2
from .gpt_neox import GPTNeoX
from .gptj import GPTJ
from .llama import Llama
from .mistral import Mistral
from .modernbert import ModernBert
from .mpnet import MPNet
from .opt import OPT
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .roberta import Camembert, Roberta, XLMRoberta
from .t5 import T5
from .vit import DeiT, ViT
from .whisper import Whisper

FAMILIES = {
    family.config_type.model_type: family
    for family in (
        Albert,
        AttentionOnly,
        Bart,
        Marian,
        Bert,
        Bloom,
        Clip,
        ClipText,
        ClipVision,
        Dinov2,
        Dinov2WithRegisters,
        DistilBert,
        Gemma2,
        Gemma3,
        Gemma3Text,
        GPT2,
        GPTNeoX,
        GPTJ,
        Llama,
        Mistral,
        ModernBert,
        MPNet,
        OPT,
        Qwen2,
        Qwen3,
        Camembert,
        Roberta,
        XLMRoberta,
        T5,
        DeiT,
        ViT,
        Whisper,
    )
}
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = [
    "FAMILIES",
    "Albert",
    "AttentionOnly",
    "Bart",
    "Marian",
    "Bert",
    "Bloom",
    "Clip",
    "ClipText",
    "ClipVision",
    "Dinov2",
    "Dinov2WithRegisters",
    "DistilBert",
    "Gemma2",
    "Gemma3",
    "Gemma3Text",
    "GPT2",
    "GPTNeoX",
    "GPTJ",
    "Llama",
    "Mistral",
    "ModernBert",
    "MPNet",
    "OPT",
    "Qwen2",
    "Qwen3",
    "Camembert",
    "Roberta",
    "XLMRoberta",
    "T5",
    "DeiT",
    "ViT",
    "Whisper",
]
