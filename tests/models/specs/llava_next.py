"""The language model of LLaVA-NeXT."""

from dataclasses import replace

from hypothesis import strategies as st

from .llava import SPEC as LLAVA
from .llava import TEXTS

SPEC = replace(
    LLAVA,
    architectures=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    named={},
    vary=TEXTS | st.just({"architecture": "LlavaNextModel"}),
)
