"""Command-R."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, VARY, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("CohereForCausalLM", "CohereModel"),
    sizes={name: value for name, value in SIZES.items() if name != "rms_norm_eps"}
    | {"layer_norm_eps": 0.02, "use_qk_norm": True, "logit_scale": 0.4, "pad_token_id": 0, "eos_token_id": 0},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            **{name: value for name, value in VARY.items() if name != "head_dim"},
            "use_qk_norm": st.booleans(),
            "attention_bias": st.booleans(),
            "logit_scale": st.sampled_from([1.0, 0.0625]),
        },
        optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("CohereModel")},
    ),
)
