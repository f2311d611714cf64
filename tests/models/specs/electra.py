"""ELECTRA: generator, discriminator and bare."""

from hypothesis import strategies as st

from . import bert
from .spec import Spec

SPEC = Spec(
    architectures=("ElectraForMaskedLM", "ElectraForPreTraining", "ElectraModel"),
    sizes={**bert.SIZES, "embedding_size": 12},
    outputs=bert.outputs,
    named={"as wide": {"embedding_size": 24, "hidden_act": "gelu_new"}},
    vary=st.fixed_dictionaries(
        {**bert.VARY, "tie_word_embeddings": st.booleans(), "embedding_size": st.sampled_from([16, 24])},
        optional={"architecture": st.sampled_from(["ElectraModel", "ElectraForPreTraining"])},
    ),
)
