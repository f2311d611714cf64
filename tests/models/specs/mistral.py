"""Mistral."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("MistralForCausalLM", "MistralModel"),
    sizes=SIZES | {"sliding_window": 3},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**VARY, "sliding_window": st.sampled_from([None, 1, 2, 4, 50])},
        optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("MistralModel")},
    ),
)
