"""SigLIP's tower for texts, by itself."""

from hypothesis import strategies as st

from .clip_text_model import outputs
from .spec import Spec

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "layer_norm_eps": 0.02,
}

VARY = {
    "num_attention_heads": st.sampled_from([2, 3, 8]),
    "num_hidden_layers": st.integers(1, 3),
    "hidden_act": st.sampled_from(["gelu_pytorch_tanh", "gelu"]),
    "layer_norm_eps": st.sampled_from([1e-6, 0.1]),
}
"""Of both towers."""

SPEC = Spec(architectures=("SiglipTextModel",), sizes=SIZES, outputs=outputs, vary=st.fixed_dictionaries(VARY))
