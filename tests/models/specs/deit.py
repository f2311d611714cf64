"""DeiT."""

from hypothesis import strategies as st

from .spec import Spec
from .vit import SIZES, VARY, outputs

SPEC = Spec(
    architectures=("DeiTForImageClassificationWithTeacher", "DeiTForImageClassification", "DeiTModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(
        VARY, optional={"architecture": st.sampled_from(["DeiTForImageClassification", "DeiTModel"])}
    ),
    inputs="pixels",
    image=(8, 12, 3),
)
