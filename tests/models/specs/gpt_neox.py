"""GPT-NeoX."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_eps": 0.02,
    "max_position_embeddings": 64,
}
ROPE = [
    {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5, "partial_rotary_factor": 0.5},
]

SPEC = Spec(
    architectures=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    sizes=SIZES,
    outputs=lambda model: {"decoder": [layer.attention.dense for layer in model.base_model.layers]},
    vary=st.fixed_dictionaries(
        {
            "use_parallel_residual": st.booleans(),
            "num_attention_heads": st.sampled_from([1, 2, 4]),
            "num_hidden_layers": st.integers(1, 3),
            "hidden_act": st.sampled_from(["gelu", "gelu_fast", "relu", "silu"]),
            "attention_bias": st.booleans(),
            "tie_word_embeddings": st.booleans(),
            "rope_parameters": st.sampled_from(ROPE),
        },
        optional={"architecture": st.just("GPTNeoXModel")},
    ),
)
