"""ViT."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": [8, 12],
    "patch_size": 4,
    "num_channels": 3,
    "layer_norm_eps": 0.02,
    "num_labels": 5,
}
"""Of ViT and DeiT."""

VARY = {
    "num_attention_heads": st.sampled_from([2, 3, 8]),
    "num_hidden_layers": st.integers(1, 3),
    "intermediate_size": st.sampled_from([20, 48]),
    "hidden_act": st.sampled_from(["gelu", "gelu_new", "relu"]),
    "layer_norm_eps": st.sampled_from([1e-12, 0.1]),
    "qkv_bias": st.booleans(),
    "patch_size": st.sampled_from([2, 4]),
    "num_labels": st.sampled_from([2, 7]),
}


def outputs(model):
    return {"encoder": [layer.attention.o_proj for layer in model.base_model.layers]}


SPEC = Spec(
    architectures=("ViTForImageClassification", "ViTModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(VARY, optional={"architecture": st.just("ViTModel")}),
    inputs="pixels",
    image=(8, 12, 3),
)
