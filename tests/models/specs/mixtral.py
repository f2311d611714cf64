"""Mixtral."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .qwen2 import together
from .spec import Spec

EXPERTS = st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 3), (4, 4)])
"""Numbers of experts, and of those that a token is sent to."""

SPEC = Spec(
    architectures=("MixtralForCausalLM", "MixtralModel"),
    sizes=SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 3},
    outputs=outputs,
    vary=st.tuples(
        st.fixed_dictionaries(
            {**VARY, "sliding_window": st.sampled_from([None, 2])},
            optional={"architecture": st.just("MixtralModel")},
        ),
        EXPERTS.map(lambda numbers: {"num_local_experts": numbers[0], "num_experts_per_tok": numbers[1]}),
    ).map(together),
)
