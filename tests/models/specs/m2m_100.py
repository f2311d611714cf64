"""M2M100, and NLLB, which is of its class."""

from hypothesis import strategies as st

from .bart import SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("M2M100ForConditionalGeneration", "M2M100Model"),
    sizes={**SIZES, "decoder_ffn_dim": 40},
    outputs=outputs,
    named={"plain": {"d_model": 20, "scale_embedding": False, "pad_token_id": 3}},
    vary=st.fixed_dictionaries({**VARY}, optional={"architecture": st.just("M2M100Model")}),
    inputs="seq2seq",
)
