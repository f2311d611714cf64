"""DeBERTa, version 1."""

from hypothesis import strategies as st

from . import deberta_v2
from .spec import Spec

SPEC = Spec(
    architectures=("DebertaForMaskedLM", "DebertaModel"),
    sizes=deberta_v2.SIZES,
    outputs=deberta_v2.outputs,
    vary=st.fixed_dictionaries(deberta_v2.VARY, optional={"architecture": st.just("DebertaModel")}),
    lengths=((14, 4, 1), ()),
)
