"""CLIP's tower for texts, by itself."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "layer_norm_eps": 0.02,
    "projection_dim": 6,
    "eos_token_id": 36,
    "bos_token_id": 0,
}

VARY = {
    "num_attention_heads": st.sampled_from([2, 3, 8]),
    "num_hidden_layers": st.integers(1, 3),
    "hidden_act": st.sampled_from(["quick_gelu", "gelu", "gelu_new"]),
    "layer_norm_eps": st.sampled_from([1e-5, 0.1]),
    "projection_dim": st.sampled_from([5, 30]),
}
"""Of both towers."""

END = {"eos_token_id": st.sampled_from([2, 5, 36])}
"""With 2, as the first configs have it, a text's embedding is read at its largest id."""


def outputs(model):
    tower = getattr(model, "text_model", model)
    return {"text": [layer.self_attn.out_proj for layer in tower.encoder.layers]}


SPEC = Spec(
    architectures=("CLIPTextModelWithProjection", "CLIPTextModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries({**VARY, **END}, optional={"architecture": st.just("CLIPTextModel")}),
    ended=True,
)
