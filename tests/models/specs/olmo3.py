"""OLMo 3."""

from hypothesis import strategies as st

from .llama import SIZES, YARN, outputs
from .olmo import OLMO
from .spec import Spec

ROPE = {
    "full_attention": YARN,
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
TYPES = ["sliding_attention", "full_attention"]

SPEC = Spec(
    architectures=("Olmo3ForCausalLM", "Olmo3Model"),
    sizes=SIZES | {"sliding_window": 3, "layer_types": TYPES, "rope_parameters": ROPE},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**OLMO, "sliding_window": st.sampled_from([1, 2, 50]), "num_hidden_layers": st.just(2)},
        optional={"layer_types": st.permutations(TYPES), "architecture": st.just("Olmo3Model")},
    ),
)
