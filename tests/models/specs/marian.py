"""Marian."""

from hypothesis import strategies as st

from .bart import SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("MarianMTModel", "MarianModel"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(VARY, optional={"architecture": st.just("MarianModel")}),
    inputs="seq2seq",
    skip=("embed_positions",),
)
