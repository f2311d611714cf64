"""DINOv2 with registers."""

from hypothesis import strategies as st

from .dinov2 import SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
    sizes={**SIZES, "num_register_tokens": 3},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**VARY, "num_register_tokens": st.sampled_from([1, 4])},
        optional={"architecture": st.just("Dinov2WithRegistersModel")},
    ),
    inputs="pixels",
    image=(12, 16, 3),
)
