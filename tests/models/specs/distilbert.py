"""DistilBERT."""

from hypothesis import strategies as st

from .spec import Spec


def outputs(model):
    return {"encoder": [layer.attention.out_lin for layer in model.base_model.transformer.layer]}


SPEC = Spec(
    architectures=("DistilBertForMaskedLM", "DistilBertModel"),
    sizes={
        "vocab_size": 37,
        "dim": 24,
        "hidden_dim": 40,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 64,
    },
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "n_heads": st.sampled_from([2, 3, 8]),
            "n_layers": st.integers(1, 3),
            "hidden_dim": st.sampled_from([20, 48]),
            "activation": st.sampled_from(["gelu", "gelu_new", "relu"]),
            "sinusoidal_pos_embds": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.just("DistilBertModel")},
    ),
    skip=("position_embeddings",),
)
