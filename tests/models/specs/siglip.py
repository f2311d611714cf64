"""SigLIP: both towers."""

from hypothesis import strategies as st

from . import siglip_text_model, siglip_vision_model
from .siglip_text_model import VARY
from .siglip_vision_model import PATCHES
from .spec import Spec


def outputs(model):
    return {**siglip_text_model.outputs(model), **siglip_vision_model.outputs(model)}


SPEC = Spec(
    architectures=("SiglipModel",),
    sizes={"text_config": siglip_text_model.SIZES, "vision_config": siglip_vision_model.SIZES},
    outputs=outputs,
    named={
        "of-two-widths": {
            "text_config": {**siglip_text_model.SIZES, "hidden_size": 16, "projection_size": 24},
        }
    },
    vary=st.fixed_dictionaries(
        {
            "text_config": st.fixed_dictionaries(VARY).map(lambda own: {**siglip_text_model.SIZES, **own}),
            "vision_config": st.fixed_dictionaries({**VARY, **PATCHES}).map(
                lambda own: {**siglip_vision_model.SIZES, **own}
            ),
        }
    ),
    inputs="pairs",
    image=(12, 12, 3),
)
