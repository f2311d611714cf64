"""Qwen3."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .qwen2 import WINDOWS, YARN, together
from .spec import Spec

SPEC = Spec(
    architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    sizes=SIZES | {"head_dim": 6, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    outputs=outputs,
    vary=st.tuples(
        st.fixed_dictionaries(
            {**VARY, "attention_bias": st.booleans()},
            optional={"rope_parameters": st.just(YARN), "architecture": st.just("Qwen3Model")},
        ),
        WINDOWS,
    ).map(together),
)
