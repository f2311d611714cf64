"""CLIP's tower for images, by itself."""

from hypothesis import strategies as st

from .clip_text_model import VARY
from .spec import Spec

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 0.02,
    "projection_dim": 6,
}

PATCHES = {"patch_size": st.sampled_from([2, 3, 6])}


def outputs(model):
    tower = getattr(model, "vision_model", model)
    return {"vision": [layer.self_attn.out_proj for layer in tower.encoder.layers]}


SPEC = Spec(
    architectures=("CLIPVisionModelWithProjection", "CLIPVisionModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries({**VARY, **PATCHES}, optional={"architecture": st.just("CLIPVisionModel")}),
    inputs="pixels",
    image=(12, 12, 3),
)
