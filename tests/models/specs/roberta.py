"""RoBERTa."""

from hypothesis import strategies as st

from . import bert
from .spec import Spec

SIZES = {**bert.SIZES, "type_vocab_size": 1, "pad_token_id": 1}
"""Of RoBERTa and what is the same under another name."""

VARY = {
    **bert.VARY,
    "pad_token_id": st.integers(0, 3),
    "type_vocab_size": st.integers(1, 2),
    "max_position_embeddings": st.sampled_from([11, 64]),
    "tie_word_embeddings": st.booleans(),
}


def spec(stem: str) -> Spec:
    """The spec of the architectures whose names begin so."""
    return Spec(
        architectures=(f"{stem}ForMaskedLM", f"{stem}Model"),
        sizes=SIZES,
        outputs=bert.outputs,
        vary=st.fixed_dictionaries(VARY, optional={"architecture": st.just(f"{stem}Model")}),
    )


SPEC = spec("Roberta")
