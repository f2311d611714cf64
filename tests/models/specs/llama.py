"""Llama."""

from hypothesis import strategies as st

from .spec import Spec

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_IN_FULL = {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}
SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 0.02,
    "max_position_embeddings": 64,
}
"""Of all families that are built like Llama."""

VARY = {
    "num_key_value_heads": st.sampled_from([1, 2, 4]),
    "head_dim": st.sampled_from([4, 6, 10]),
    "tie_word_embeddings": st.booleans(),
    "hidden_act": st.sampled_from(["silu", "gelu", "gelu_new", "relu"]),
    "num_hidden_layers": st.integers(1, 3),
}


def outputs(model):
    return {"decoder": [layer.self_attn.o_proj for layer in model.base_model.layers]}


SPEC = Spec(
    architectures=("LlamaForCausalLM", "LlamaModel"),
    sizes=SIZES,
    outputs=outputs,
    named={
        "llama3": {"rope_parameters": LLAMA3, "head_dim": 16},
        "yarn": {"rope_parameters": YARN, "head_dim": 16},
        "yarn-in-full": {"rope_parameters": YARN_IN_FULL, "head_dim": 16},
        "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    },
    vary=st.fixed_dictionaries(
        VARY,
        optional={
            "attention_bias": st.booleans(),
            "mlp_bias": st.booleans(),
            "rope_parameters": st.sampled_from([LLAMA3, {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}]),
            "architecture": st.just("LlamaModel"),
        },
    ),
)
