"""One file a family: a frozen config, its parts, and the table of its checkpoint's tensors."""

from .albert import Albert
from .attention_only import AttentionOnly
from .bart import Bart, Marian
from .bert import Bert
from .distilbert import DistilBert
from .gpt2 import GPT2
from .llama import Llama
from .modernbert import ModernBert
from .mpnet import MPNet
from .roberta import Camembert, Roberta, XLMRoberta
from .t5 import T5

_ENCODERS = (Bert, Roberta, XLMRoberta, Camembert, DistilBert, Albert, MPNet, ModernBert)
_DECODERS = (Llama, GPT2)
_OTHERS = (T5, Bart, Marian, AttentionOnly)

FAMILIES = {family.config_type.model_type: family for family in (*_DECODERS, *_ENCODERS, *_OTHERS)}
"""Network classes by the `model_type` of a Hugging Face config."""

__all__ = [
    "FAMILIES",
    "GPT2",
    "T5",
    "Albert",
    "AttentionOnly",
    "Bart",
    "Bert",
    "Camembert",
    "DistilBert",
    "Llama",
    "MPNet",
    "Marian",
    "ModernBert",
    "Roberta",
    "XLMRoberta",
]
