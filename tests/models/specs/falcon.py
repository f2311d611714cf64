"""Falcon."""

from typing import Any

import torch
from hypothesis import strategies as st

from .llama import LLAMA3
from .spec import Spec

RW: dict[str, Any] = {
    "alibi": True,
    "bias": True,
    "multi_query": False,
    "parallel_attn": False,
    "new_decoder_architecture": False,
}


def alibi_once(model: Any) -> None:
    """The eager code of `transformers` adds ALiBi to the scores and again with the mask; its default code adds it once.

    The models were trained with it added once.
    """

    def without(module: Any, args: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        alibi = arguments["alibi"]
        return args, {**arguments, "alibi": None if alibi is None else torch.zeros_like(alibi)}

    for layer in model.base_model.h:
        layer.self_attention.register_forward_pre_hook(without, with_kwargs=True)


SPEC = Spec(
    architectures=("FalconForCausalLM", "FalconModel"),
    sizes={
        "vocab_size": 37,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "layer_norm_epsilon": 0.02,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    outputs=lambda model: {"decoder": [layer.self_attention.dense for layer in model.base_model.h]},
    named={
        "7b": {"new_decoder_architecture": False, "num_kv_heads": None},
        "rw": {**RW, "num_kv_heads": None},
        "11b": {"num_ln_in_parallel_attn": 1},
    },
    vary=st.fixed_dictionaries(
        {
            "num_attention_heads": st.sampled_from([2, 4, 12]),
            "num_hidden_layers": st.integers(1, 3),
            "ffn_hidden_size": st.sampled_from([None, 20]),
            "activation": st.sampled_from(["gelu", "relu"]),
            "alibi": st.booleans(),
            "bias": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        },
        optional={"rope_parameters": st.just({**LLAMA3}), "architecture": st.just("FalconModel")},
    )
    | st.fixed_dictionaries(
        {
            "new_decoder_architecture": st.just(False),
            "num_kv_heads": st.none(),
            "num_attention_heads": st.sampled_from([2, 3, 12]),
            "multi_query": st.booleans(),
            "parallel_attn": st.booleans(),
            "alibi": st.booleans(),
        }
    ),
    prepare=alibi_once,
)
