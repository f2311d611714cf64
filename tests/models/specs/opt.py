"""OPT."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("OPTForCausalLM", "OPTModel"),
    sizes={
        "vocab_size": 37,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    outputs=lambda model: {"decoder": [layer.self_attn.out_proj for layer in model.base_model.decoder.layers]},
    vary=st.fixed_dictionaries(
        {
            "do_layer_norm_before": st.booleans(),
            "word_embed_proj_dim": st.sampled_from([24, 10, 30]),
            "_remove_final_layer_norm": st.booleans(),
            "enable_bias": st.booleans(),
            "num_attention_heads": st.sampled_from([2, 3]),
            "num_hidden_layers": st.integers(1, 3),
            "activation_function": st.sampled_from(["relu", "gelu"]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("OPTModel")},
    ),
)
