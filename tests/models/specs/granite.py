"""Granite."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

FACTORS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.5,
}

SPEC = Spec(
    architectures=("GraniteForCausalLM", "GraniteModel"),
    sizes=SIZES | FACTORS,
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            **{name: value for name, value in VARY.items() if name != "head_dim"},
            "residual_multiplier": st.sampled_from([1.0, 0.22]),
            "logits_scaling": st.sampled_from([1.0, 8.0]),
            "attention_bias": st.booleans(),
            "mlp_bias": st.booleans(),
        },
        optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("GraniteModel")},
    ),
)
