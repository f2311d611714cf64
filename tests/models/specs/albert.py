"""ALBERT."""

from hypothesis import strategies as st

from . import bert
from .spec import Spec


def outputs(model):
    encoder = model.base_model.encoder
    share = model.config.num_hidden_layers / model.config.num_hidden_groups
    groups = [encoder.albert_layer_groups[int(layer / share)] for layer in range(model.config.num_hidden_layers)]
    return {"encoder": [group.albert_layers[0].attention.dense for group in groups]}


SPEC = Spec(
    architectures=("AlbertForMaskedLM", "AlbertModel", "AlbertForPreTraining"),
    sizes={**bert.SIZES, "embedding_size": 10, "num_hidden_layers": 3, "num_hidden_groups": 2},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            **bert.VARY,
            "num_hidden_layers": st.integers(2, 5),
            "num_hidden_groups": st.integers(1, 2),
            "embedding_size": st.sampled_from([6, 24]),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"architecture": st.sampled_from(["AlbertModel", "AlbertForPreTraining"])},
    ),
)
