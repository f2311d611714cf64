"""Phi 1, 1.5 and 2."""

from hypothesis import strategies as st

from .gpt_neox import ROPE, SIZES
from .spec import Spec

SPEC = Spec(
    architectures=("PhiForCausalLM", "PhiModel"),
    sizes=SIZES | {"qk_layernorm": True},
    outputs=lambda model: {"decoder": [layer.self_attn.dense for layer in model.base_model.layers]},
    vary=st.fixed_dictionaries(
        {
            "num_attention_heads": st.sampled_from([2, 4]),
            "num_key_value_heads": st.sampled_from([None, 2, 1]),
            "num_hidden_layers": st.integers(1, 3),
            "hidden_act": st.sampled_from(["gelu_new", "gelu", "relu"]),
            "qk_layernorm": st.booleans(),
            "tie_word_embeddings": st.booleans(),
            "rope_parameters": st.sampled_from(ROPE),
        },
        optional={"architecture": st.just("PhiModel")},
    ),
)
