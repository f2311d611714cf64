"""Whisper."""

from hypothesis import strategies as st

from .bart import outputs
from .spec import Spec

SPEC = Spec(
    architectures=("WhisperForConditionalGeneration", "WhisperModel"),
    sizes={
        "vocab_size": 37,
        "num_mel_bins": 5,
        "d_model": 24,
        "encoder_layers": 2,
        "encoder_ffn_dim": 40,
        "encoder_attention_heads": 4,
        "decoder_layers": 3,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "max_source_positions": 8,
        "max_target_positions": 12,
        "pad_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 2,
    },
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "num_mel_bins": st.sampled_from([3, 8]),
            "encoder_layers": st.integers(1, 2),
            "decoder_layers": st.integers(1, 3),
            "encoder_attention_heads": st.sampled_from([2, 3]),
            "decoder_attention_heads": st.sampled_from([4, 6]),
            "max_source_positions": st.sampled_from([1, 2, 5]),
            "max_target_positions": st.sampled_from([5, 9]),
            "activation_function": st.sampled_from(["gelu", "silu", "relu", "gelu_new"]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("WhisperModel")},
    ),
    inputs="features",
)
