"""GPT-BigCode."""

from hypothesis import strategies as st

from .gpt2 import SPEC as GPT2
from .spec import Spec

SPEC = Spec(
    architectures=("GPTBigCodeForCausalLM", "GPTBigCodeModel"),
    sizes=GPT2.sizes,
    outputs=GPT2.outputs,
    named={"unscaled": {"scale_attn_weights": False}},
    vary=st.fixed_dictionaries(
        {
            "n_head": st.sampled_from([2, 3, 8]),
            "n_layer": st.integers(1, 3),
            "n_inner": st.sampled_from([None, 20]),
            "activation_function": st.sampled_from(["gelu_pytorch_tanh", "gelu", "relu"]),
            "multi_query": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("GPTBigCodeModel")},
    ),
)
