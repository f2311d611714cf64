"""MPT."""

from hypothesis import strategies as st

from .spec import Spec

SPEC = Spec(
    architectures=("MptForCausalLM", "MptModel"),
    sizes={
        "vocab_size": 37,
        "d_model": 24,
        "n_layers": 2,
        "n_heads": 4,
        "max_seq_len": 64,
        "layer_norm_epsilon": 0.02,
    },
    outputs=lambda model: {"decoder": [layer.attn.out_proj for layer in model.base_model.blocks]},
    named={"clipped": {"attn_config": {"clip_qkv": 0.4, "softmax_scale": 0.3}}},
    vary=st.fixed_dictionaries(
        {
            "n_heads": st.sampled_from([1, 3, 6, 12]),
            "n_layers": st.integers(1, 3),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("MptModel")},
    ),
)
