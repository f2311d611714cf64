"""BERT."""

from hypothesis import strategies as st

from .spec import Spec

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 0.02,
}
"""Of all families that are built like BERT."""

VARY = {
    "num_attention_heads": st.sampled_from([2, 3, 8]),
    "num_hidden_layers": st.integers(1, 3),
    "intermediate_size": st.sampled_from([20, 48]),
    "hidden_act": st.sampled_from(["gelu", "gelu_new", "relu"]),
    "layer_norm_eps": st.sampled_from([1e-12, 0.1]),
}


def outputs(model):
    return {"encoder": [layer.attention.output.dense for layer in model.base_model.encoder.layer]}


SPEC = Spec(
    architectures=("BertForMaskedLM", "BertModel", "BertForPreTraining"),
    sizes=SIZES,
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**VARY, "tie_word_embeddings": st.booleans()},
        optional={"architecture": st.sampled_from(["BertModel", "BertForPreTraining"])},
    ),
)
