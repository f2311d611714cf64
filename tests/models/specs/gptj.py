"""GPT-J."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("GPTJForCausalLM", "GPTJModel"),
    sizes={
        "vocab_size": 37,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "rotary_dim": 6,
        "layer_norm_epsilon": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    outputs=lambda model: {"decoder": [layer.attn.out_proj for layer in model.base_model.h]},
    vary=st.fixed_dictionaries(
        {
            "n_head": st.sampled_from([1, 2, 4]),
            "n_layer": st.integers(1, 3),
            "rotary_dim": st.sampled_from([2, 4, 8]),
            "n_inner": st.sampled_from([None, 20]),
            "activation_function": st.sampled_from(["gelu_new", "gelu", "relu"]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("GPTJModel")},
    ),
)
