"""Qwen2."""

from hypothesis import strategies as st

from .llama import SIZES, VARY, outputs
from .spec import Spec

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOWS = st.sampled_from(
    [
        {"use_sliding_window": False, "sliding_window": 2},
        {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
        {
            "use_sliding_window": True,
            "sliding_window": 1,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ]
)
"""What Qwen's configs say of windows."""


def together(parts):
    """One config of several draws, the later ones over the earlier."""
    return {name: value for part in parts for name, value in part.items()}


SPEC = Spec(
    architectures=("Qwen2ForCausalLM", "Qwen2Model"),
    sizes=SIZES | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    outputs=outputs,
    vary=st.tuples(
        st.fixed_dictionaries(VARY, optional={"rope_parameters": st.just(YARN), "architecture": st.just("Qwen2Model")}),
        WINDOWS,
    ).map(together),
)
