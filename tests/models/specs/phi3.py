"""Phi 3."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .spec import Spec

LONG = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 9.0],
    "partial_rotary_factor": 0.7,
}
"""Of heads of 6 dimensions, of which 4 rotate."""

SPEC = Spec(
    architectures=("Phi3ForCausalLM", "Phi3Model"),
    sizes=SIZES | {"sliding_window": 3, "pad_token_id": 0, "eos_token_id": 0},
    outputs=outputs,
    named={
        "longrope": {"rope_parameters": LONG, "original_max_position_embeddings": 8},
        "longrope-in-full": {
            "rope_parameters": {**LONG, "attention_factor": 1.4, "factor": 3.0},
            "original_max_position_embeddings": 32,
        },
    },
    vary=st.fixed_dictionaries(
        {name: value for name, value in VARY.items() if name != "head_dim"},
        optional={
            "sliding_window": st.sampled_from([None, 1, 50]),
            "rope_parameters": st.just({"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.7}),
            "architecture": st.just("Phi3Model"),
        },
    ),
)
