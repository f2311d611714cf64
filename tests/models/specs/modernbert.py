"""ModernBERT."""

from hypothesis import strategies as st

from .spec import Spec

NEAR, FAR = "sliding_attention", "full_attention"


def outputs(model):
    return {"encoder": [layer.attn.Wo for layer in model.base_model.layers]}


def rope(far, near):
    return {FAR: {"rope_type": "default", "rope_theta": 900.0, **far}, NEAR: {"rope_type": "default", **near}}


SPEC = Spec(
    architectures=("ModernBertForMaskedLM", "ModernBertModel"),
    sizes={
        "vocab_size": 37,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "local_attention": 4,
        "max_position_embeddings": 64,
        "norm_eps": 0.02,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    outputs=outputs,
    vary=st.fixed_dictionaries(
        {
            "num_attention_heads": st.sampled_from([2, 3, 6]),
            "num_hidden_layers": st.integers(1, 5),
            "local_attention": st.integers(2, 9),
            "hidden_activation": st.sampled_from(["gelu", "silu", "relu"]),
            "classifier_activation": st.sampled_from(["gelu", "gelu_new"]),
            **{
                name: st.booleans()
                for name in (
                    "norm_bias attention_bias mlp_bias decoder_bias classifier_bias tie_word_embeddings".split()
                )
            },
        },
        optional={
            "architecture": st.just("ModernBertModel"),
            "global_attn_every_n_layers": st.sampled_from([1, 2]),
            "rope_parameters": st.sampled_from(
                [rope({}, {"rope_theta": 30.0}), rope({"rope_type": "linear", "factor": 2.5}, {"rope_theta": 50.0})]
            ),
        },
    ),
)
