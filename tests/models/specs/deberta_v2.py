"""DeBERTa, versions 2 and 3."""

from hypothesis import strategies as st

from . import bert
from .spec import Spec

SIZES = {
    **bert.SIZES,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 12,
}
"""Of all versions."""

VARY = {
    **bert.VARY,
    "type_vocab_size": st.sampled_from([0, 2]),
    "relative_attention": st.sampled_from([True, True, False]),
    "position_biased_input": st.booleans(),
    "pos_att_type": st.sampled_from([["c2p"], ["p2c"], "c2p|p2c", None]),
    "max_relative_positions": st.sampled_from([-1, 3, 20]),
}


def outputs(model):
    return {"encoder": [layer.attention.output.dense for layer in model.base_model.encoder.layer]}


SPEC = Spec(
    architectures=("DebertaV2ForMaskedLM", "DebertaV2Model"),
    sizes={**SIZES, "position_buckets": 6, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    outputs=outputs,
    named={
        "own projections, narrow embeddings": {"share_att_key": False, "embedding_size": 12},
        "version 3's head": {"legacy": False},
    },
    vary=st.fixed_dictionaries(
        {
            **VARY,
            "position_buckets": st.sampled_from([-1, 4, 8]),
            "share_att_key": st.booleans(),
            "norm_rel_ebd": st.sampled_from(["none", "layer_norm"]),
        },
        optional={"architecture": st.just("DebertaV2Model")},
    ),
    lengths=((14, 4, 1), ()),
)
