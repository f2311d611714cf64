"""Families that store the matrices of linear layers as they are used, `[in, out]`, and not as PyTorch does."""

import re

_CONV1D = re.compile(r"(.*\.)?(c_attn|c_proj|c_fc|q_attn)\.weight")


def is_conv1d(family: str, name: str) -> bool:
    """Whether a tensor is the weight of a `Conv1D` of transformers: GPT-2's, stored `[in, out]`."""
    return family in ("gpt2", "openai-gpt") and _CONV1D.fullmatch(name) is not None
