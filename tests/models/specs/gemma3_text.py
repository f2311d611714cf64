"""Gemma 3's language model."""

from hypothesis import strategies as st

from .gemma2 import GEMMA
from .llama import LLAMA3, SIZES, YARN, outputs
from .spec import Spec

ROPES = [
    {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    },
    {"full_attention": LLAMA3, "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 90.0}},
]

VARY = st.fixed_dictionaries(
    {
        **GEMMA,
        "num_hidden_layers": st.just(3),
        "layer_types": st.permutations(["full_attention", "full_attention", "sliding_attention"]),
        "rope_parameters": st.sampled_from([None, *ROPES]),
    }
)

SPEC = Spec(
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel"),
    sizes=SIZES
    | {
        "head_dim": 6,
        "query_pre_attn_scalar": 9,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": ROPES[0],
    },
    outputs=outputs,
    named={"yarn": {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}}},
    vary=VARY | VARY.map(lambda config: {**config, "architecture": "Gemma3TextModel"}),
)
