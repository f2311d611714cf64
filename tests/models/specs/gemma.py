"""Gemma."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("GemmaForCausalLM", "GemmaModel"),
    sizes=SIZES | {"head_dim": 6, "num_key_value_heads": 1},
    outputs=outputs,
    named={"old-activation": {"hidden_act": "gelu"}},
    vary=st.fixed_dictionaries(
        {**VARY, "attention_bias": st.booleans()},
        optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("GemmaModel")},
    ),
)
