"""CodeGen."""

from hypothesis import strategies as st

from .gptj import SPEC as GPTJ
from .spec import Spec

SPEC = Spec(
    architectures=("CodeGenForCausalLM", "CodeGenModel"),
    sizes=GPTJ.sizes,
    outputs=GPTJ.outputs,
    vary=st.fixed_dictionaries(
        {
            "n_head": st.sampled_from([4, 8]),
            "n_layer": st.integers(1, 3),
            "rotary_dim": st.sampled_from([2, 4]),
            "n_inner": st.sampled_from([None, 20]),
            "activation_function": st.sampled_from(["gelu_new", "gelu", "relu"]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("CodeGenModel")},
    ),
)
