"""StableLM."""

from hypothesis import strategies as st

from .llama import SIZES, outputs
from .spec import Spec

ROPE = [
    {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.7},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5, "partial_rotary_factor": 0.4},
]

SPEC = Spec(
    architectures=("StableLmForCausalLM", "StableLmModel"),
    sizes={name: value for name, value in SIZES.items() if name != "rms_norm_eps"}
    | {"layer_norm_eps": 0.02, "qk_layernorm": True, "use_qkv_bias": True, "partial_rotary_factor": 0.7},
    outputs=outputs,
    named={"parallel": {"use_parallel_residual": True}},
    vary=st.fixed_dictionaries(
        {
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
            "num_hidden_layers": st.integers(1, 3),
            "hidden_act": st.sampled_from(["silu", "gelu", "relu"]),
            "tie_word_embeddings": st.booleans(),
            "qk_layernorm": st.booleans(),
            "use_qkv_bias": st.booleans(),
            "use_parallel_residual": st.booleans(),
            "rope_parameters": st.sampled_from(ROPE),
        },
        optional={"architecture": st.just("StableLmModel")},
    ),
)
