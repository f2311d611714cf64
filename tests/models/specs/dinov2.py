"""DINOv2, on images of another size than its positions'."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 20,
    "patch_size": 4,
    "num_channels": 3,
    "layer_norm_eps": 0.02,
    "num_labels": 5,
}
"""Of DINOv2 with registers or without."""

VARY = {
    "num_attention_heads": st.sampled_from([2, 3, 8]),
    "num_hidden_layers": st.integers(1, 3),
    "mlp_ratio": st.sampled_from([1, 3]),
    "hidden_act": st.sampled_from(["gelu", "gelu_new", "relu"]),
    "layer_norm_eps": st.sampled_from([1e-12, 0.1]),
    "qkv_bias": st.booleans(),
    "use_swiglu_ffn": st.booleans(),
    "patch_size": st.sampled_from([2, 4]),
    "image_size": st.sampled_from([8, 12, 16]),
    "num_labels": st.sampled_from([2, 7]),
}


def outputs(model):
    return {"encoder": [layer.attention.o_proj for layer in model.base_model.encoder.layer]}


SPEC = Spec(
    architectures=("Dinov2ForImageClassification", "Dinov2Model"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(VARY, optional={"architecture": st.just("Dinov2Model")}),
    inputs="pixels",
    image=(12, 16, 3),
)
