"""MPNet."""

from hypothesis import strategies as st

from . import bert
from .spec import Spec


def outputs(model):
    return {"encoder": [layer.attention.attn.o for layer in model.base_model.encoder.layer]}


SPEC = Spec(
    architectures=("MPNetForMaskedLM", "MPNetModel"),
    sizes={name: value for name, value in bert.SIZES.items() if name != "type_vocab_size"},
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {**bert.VARY, "tie_word_embeddings": st.booleans(), "max_position_embeddings": st.sampled_from([25, 64])},
        optional={"architecture": st.just("MPNetModel")},
    ),
    lengths=((23, 4, 1), ()),  # further than the buckets that hold one distance each
)
