"""GPT-2."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    sizes={
        "vocab_size": 37,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "layer_norm_epsilon": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    outputs=lambda model: {"decoder": [layer.attn.c_proj for layer in model.base_model.h]},
    named={
        "unscaled": {"scale_attn_weights": False, "reorder_and_upcast_attn": True},
        "stanford": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    },
    vary=st.fixed_dictionaries(
        {
            "n_head": st.sampled_from([2, 3, 8]),
            "n_layer": st.integers(1, 3),
            "n_inner": st.sampled_from([None, 20]),
            "activation_function": st.sampled_from(["gelu_new", "gelu", "relu", "quick_gelu"]),
            "scale_attn_weights": st.booleans(),
            "scale_attn_by_inverse_layer_idx": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("GPT2Model")},
    ),
)
