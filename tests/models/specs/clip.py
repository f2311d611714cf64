"""CLIP: both towers."""

from hypothesis import strategies as st

from . import clip_text_model, clip_vision_model
from .clip_text_model import END, VARY
from .clip_vision_model import PATCHES
from .spec import Spec


def outputs(model):
    return {**clip_text_model.outputs(model), **clip_vision_model.outputs(model)}


SPEC = Spec(
    architectures=("CLIPModel",),
    sizes={"text_config": clip_text_model.SIZES, "vision_config": clip_vision_model.SIZES, "projection_dim": 6},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "text_config": st.fixed_dictionaries({**VARY, **END}).map(lambda own: {**clip_text_model.SIZES, **own}),
            "vision_config": st.fixed_dictionaries({**VARY, **PATCHES}).map(
                lambda own: {**clip_vision_model.SIZES, **own}
            ),
            "projection_dim": st.sampled_from([4, 30]),
        }
    ),
    inputs="pairs",
    ended=True,
    image=(12, 12, 3),
)
