"""Qwen3-MoE."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .qwen2 import together
from .qwen2_moe import DENSE, ROUTED, ROUTES
from .spec import Spec

SPEC = Spec(
    architectures=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    sizes=SIZES | ROUTED | {"head_dim": 8, "norm_topk_prob": True},
    outputs=outputs,
    vary=st.tuples(
        st.fixed_dictionaries(
            {
                **VARY,
                "attention_bias": st.booleans(),
                "norm_topk_prob": st.booleans(),
                "use_sliding_window": st.booleans(),
                "sliding_window": st.integers(1, 4),
            },
            optional={"architecture": st.just("Qwen3MoeModel")},
        ),
        ROUTES,
        DENSE,
    ).map(together),
)
