"""Qwen2-MoE."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .mixtral import EXPERTS
from .qwen2 import together
from .spec import Spec

DENSE = st.sampled_from(
    [
        {},
        {"num_hidden_layers": 3, "mlp_only_layers": [1]},
        {"num_hidden_layers": 3, "decoder_sparse_step": 2},
    ]
)
"""Layers without experts."""

ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
ROUTES = EXPERTS.map(lambda numbers: {"num_experts": numbers[0], "num_experts_per_tok": numbers[1]})

SPEC = Spec(
    architectures=("Qwen2MoeForCausalLM", "Qwen2MoeModel"),
    sizes=SIZES | ROUTED | {"shared_expert_intermediate_size": 20},
    outputs=outputs,
    named={"dense-first": {"mlp_only_layers": [0], "norm_topk_prob": True}},
    vary=st.tuples(
        st.fixed_dictionaries(
            {
                "num_key_value_heads": st.sampled_from([1, 2, 4]),
                "qkv_bias": st.booleans(),
                "norm_topk_prob": st.booleans(),
                "hidden_act": VARY["hidden_act"],
                "use_sliding_window": st.booleans(),
                "sliding_window": st.integers(1, 4),
                "max_window_layers": st.integers(0, 3),
            },
            optional={"architecture": st.just("Qwen2MoeModel")},
        ),
        ROUTES,
        DENSE,
    ).map(together),
)
