"""OLMo."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

OLMO = {name: value for name, value in VARY.items() if name != "head_dim"} | {"attention_bias": st.booleans()}
"""Of all versions, whose heads share the width."""

SPEC = Spec(
    architectures=("OlmoForCausalLM", "OlmoModel"),
    sizes={name: value for name, value in SIZES.items() if name != "rms_norm_eps"},
    outputs=outputs,
    named={"clipped": {"clip_qkv": 0.4, "num_key_value_heads": 4}},
    vary=st.fixed_dictionaries(
        OLMO,
        optional={
            "clip_qkv": st.sampled_from([0.2, 1.0]),
            "num_attention_heads": st.just(4),
            "rope_parameters": st.just(LLAMA3),
            "architecture": st.just("OlmoModel"),
        },
    ),
)
