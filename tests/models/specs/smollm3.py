"""SmolLM3."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, YARN, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("SmolLM3ForCausalLM", "SmolLM3Model"),
    sizes=SIZES | {"no_rope_layers": [0, 1], "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
    outputs=outputs,
    named={"windows": {"use_sliding_window": True, "sliding_window": 3}},
    vary=st.fixed_dictionaries(
        {
            **{name: value for name, value in VARY.items() if name not in ("head_dim", "num_hidden_layers")},
            "no_rope_layers": st.sampled_from([[1, 0], [1, 1], [0, 0]]),
            "attention_bias": st.booleans(),
            "mlp_bias": st.booleans(),
        },
        optional={"rope_parameters": st.just(YARN), "architecture": st.just("SmolLM3Model")},
    ),
)
