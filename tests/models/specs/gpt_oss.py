"""GPT-OSS."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, YARN, outputs
from .mixtral import EXPERTS
from .qwen2 import together
from .spec import Spec

SPEC = Spec(
    architectures=("GptOssForCausalLM", "GptOssModel"),
    sizes=SIZES
    | {
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 3,
        "swiglu_limit": 0.7,
        "rope_parameters": {**YARN, "truncate": False, "factor": 8.0},
    },
    outputs=outputs,
    named={"as-published": {"swiglu_limit": 7.0, "rope_parameters": None, "num_hidden_layers": 3}},
    vary=st.tuples(
        st.fixed_dictionaries(
            {
                "num_key_value_heads": st.sampled_from([1, 2, 4]),
                "head_dim": VARY["head_dim"],
                "tie_word_embeddings": st.booleans(),
                "num_hidden_layers": st.integers(1, 3),
                "sliding_window": st.integers(1, 4),
                "attention_bias": st.booleans(),
                "swiglu_alpha": st.sampled_from([1.0, 1.702]),
                "swiglu_limit": st.sampled_from([0.3, 2.0]),
            },
            optional={"architecture": st.just("GptOssModel")},
        ),
        EXPERTS.map(lambda numbers: {"num_local_experts": numbers[0], "num_experts_per_tok": numbers[1]}),
    ).map(together),
)
