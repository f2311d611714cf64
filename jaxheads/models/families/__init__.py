"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .attention_only import AttentionOnly
from .bart import Bart, Marian
from .bert import Bert
from .bloom import Bloom
from .gpt2 import GPT2
from .gpt_neox import GPTNeoX
from .gptj import GPTJ
from .llama import Llama
from .opt import OPT
from .t5 import T5

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
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = [
    "FAMILIES",
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
]
