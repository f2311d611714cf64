"""OLMo 2."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, outputs
from .olmo import OLMO
from .spec import Spec

SPEC = Spec(
    architectures=("Olmo2ForCausalLM", "Olmo2Model"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(
        OLMO, optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("Olmo2Model")}
    ),
)
