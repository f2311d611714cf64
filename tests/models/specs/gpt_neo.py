"""GPT-Neo."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("GPTNeoForCausalLM", "GPTNeoModel"),
    sizes={
        "vocab_size": 37,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 3,
        "layer_norm_epsilon": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    outputs=lambda model: {"decoder": [layer.attn.attention.out_proj for layer in model.base_model.h]},
    named={"no-windows": {"attention_types": [[["global"], 2]]}},
    vary=st.fixed_dictionaries(
        {
            "num_heads": st.sampled_from([2, 3, 8]),
            "intermediate_size": st.sampled_from([None, 20]),
            "activation_function": st.sampled_from(["gelu_new", "gelu", "relu"]),
            "window_size": st.sampled_from([1, 2, 50]),
            "tie_word_embeddings": st.booleans(),
            "attention_types": st.sampled_from([[[["local", "global"], 1]], [[["local"], 1], [["global"], 1]]]),
        },
        optional={"architecture": st.just("GPTNeoModel")},
    ),
)
