"""BART."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "vocab_size": 37,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_layers": 3,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
"""Of BART and Marian."""

VARY = {
    "encoder_attention_heads": st.sampled_from([2, 3]),
    "decoder_attention_heads": st.sampled_from([4, 6]),
    "decoder_layers": st.integers(1, 2),
    "activation_function": st.sampled_from(["gelu", "silu", "relu", "gelu_new"]),
    "scale_embedding": st.booleans(),
}


def outputs(model):
    encoder, decoder = model.get_encoder().layers, model.get_decoder().layers
    return {
        "encoder": [layer.self_attn.out_proj for layer in encoder],
        "decoder": [layer.self_attn.out_proj for layer in decoder],
        "cross": [layer.encoder_attn.out_proj for layer in decoder],
    }


SPEC = Spec(
    architectures=("BartForConditionalGeneration", "BartModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(VARY, optional={"architecture": st.just("BartModel")}),
    inputs="seq2seq",
)
