"""Gemma 2."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

GEMMA = {name: value for name, value in VARY.items() if name != "hidden_act"} | {
    "attention_bias": st.booleans(),
    "hidden_activation": st.sampled_from(["gelu_pytorch_tanh", "gelu", "silu"]),
    # Not below 4: the patterns would hang on the last digits of scores, in `transformers` too.
    "query_pre_attn_scalar": st.sampled_from([4, 6, 30]),
    "sliding_window": st.sampled_from([1, 2, 3, 50]),
    "final_logit_softcapping": st.sampled_from([None, 0.7, 5.0]),
}
"""Of both Gemmas."""

SPEC = Spec(
    architectures=("Gemma2ForCausalLM", "Gemma2Model"),
    sizes=SIZES
    | {
        "head_dim": 6,
        "query_pre_attn_scalar": 9,
        "sliding_window": 3,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 4.0,
    },
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**GEMMA, "attn_logit_softcapping": st.sampled_from([None, 0.7, 5.0])},
        optional={
            "rope_parameters": st.just(LLAMA3),
            "architecture": st.just("Gemma2Model"),
        },
    )
    | st.fixed_dictionaries(
        {
            "num_hidden_layers": st.just(3),
            "layer_types": st.permutations(["full_attention", "full_attention", "sliding_attention"]),
        }
    ),
)
