"""BLOOM."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("BloomForCausalLM", "BloomModel"),
    sizes={
        "vocab_size": 37,
        "hidden_size": 24,
        "n_layer": 2,
        "n_head": 6,
        "layer_norm_epsilon": 0.02,
    },
    outputs=lambda model: {"decoder": [layer.self_attention.dense for layer in model.base_model.h]},
    vary=st.fixed_dictionaries(
        {
            "n_head": st.sampled_from([1, 2, 3, 8, 12]),
            "n_layer": st.integers(1, 3),
            "apply_residual_connection_post_layernorm": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("BloomModel")},
    ),
)
