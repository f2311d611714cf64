"""SigLIP's tower for images, by itself."""

from hypothesis import strategies as st

from .clip_vision_model import outputs
from .siglip_text_model import VARY
from .spec import Spec

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 0.02,
}

PATCHES = {"patch_size": st.sampled_from([2, 3, 6])}

SPEC = Spec(
    architectures=("SiglipVisionModel",),
    sizes=SIZES,
    outputs=outputs,
    named={"without-head": {"vision_use_head": False}},
    vary=st.fixed_dictionaries({**VARY, **PATCHES}),
    inputs="pixels",
    image=(12, 12, 3),
)
