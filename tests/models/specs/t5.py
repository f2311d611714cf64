"""T5, 1.0 and 1.1."""

from hypothesis import strategies as st

from .spec import Spec


def outputs(model):
    encoder, decoder = model.get_encoder().block, model.get_decoder().block
    return {
        "encoder": [block.layer[0].SelfAttention.o for block in encoder],
        "decoder": [block.layer[0].SelfAttention.o for block in decoder],
        "cross": [block.layer[1].EncDecAttention.o for block in decoder],
    }


SPEC = Spec(
    architectures=("T5ForConditionalGeneration", "T5Model"),
    sizes={
        "vocab_size": 37,
        "d_model": 24,
        "d_kv": 5,
        "d_ff": 40,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 10,
        "layer_norm_epsilon": 0.02,
    },
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "d_kv": st.sampled_from([4, 6, 9]),
            "num_heads": st.sampled_from([2, 3]),
            "feed_forward_proj": st.sampled_from(["relu", "gated-gelu", "gated-silu", "gelu"]),
            "num_decoder_layers": st.integers(1, 3),
            "relative_attention_num_buckets": st.sampled_from([4, 8, 32]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("T5Model")},
    ),
    inputs="seq2seq",
)
