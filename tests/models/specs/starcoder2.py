"""StarCoder 2."""

from hypothesis import strategies as st

from .llama import LLAMA3, SIZES, outputs
from .spec import Spec

SPEC = Spec(
    architectures=("Starcoder2ForCausalLM", "Starcoder2Model"),
    sizes={name: value for name, value in SIZES.items() if name != "rms_norm_eps"}
    | {"norm_epsilon": 0.02, "sliding_window": 3},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
            "num_hidden_layers": st.integers(1, 3),
            "hidden_act": st.sampled_from(["gelu_pytorch_tanh", "gelu", "relu"]),
            "sliding_window": st.sampled_from([None, 1, 50]),
            "use_bias": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"rope_parameters": st.just(LLAMA3), "architecture": st.just("Starcoder2Model")},
    ),
)
