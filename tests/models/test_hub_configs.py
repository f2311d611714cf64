"""Configs as the hub has them, most in the spelling of transformers 4: files of `hub_configs/`, named by the model."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxheads.models.families import FAMILIES
from jaxheads.models.positions import Rotary

READ: dict[str, dict[str, Any]] = {
    "TinyStories-33M": {
        "attention_layers": ("global", "local", "global", "local"),
        "intermediate_size": 3072,
        "tie_word_embeddings": True,
    },
    "pythia-of-other-numbers": {
        "rotary": Rotary(base=20000.0, dimensions=32, kind="default", parameters=()),
        "attention_bias": True,
    },
    "gpt-j-6b": {"n_inner": 16384, "max_position_embeddings": 2048},
    "OLMo-1B-hf": {
        "clip_qkv": None,
        "tie_word_embeddings": True,
        "rotary": Rotary(base=10000.0, dimensions=128, kind="default", parameters=()),
    },
    "OLMo-2-0425-1B": {
        "rms_norm_eps": 1e-06,
        "rotary": Rotary(base=500000.0, dimensions=128, kind="default", parameters=()),
    },
    "gemma-2b": {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "phi-2": {"rotary": Rotary(base=10000.0, dimensions=32, kind="default", parameters=()), "qk_layernorm": False},
    "phi-1_5": {
        "rotary": Rotary(base=10000.0, dimensions=32, kind="default", parameters=()),
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    },
    "Phi-3-mini-4k-instruct": {
        "rotary": Rotary(base=10000.0, dimensions=96, kind="default", parameters=()),
        "sliding_window": 2047,
        "max_position_embeddings": 4096,
    },
    "stablelm-2-1_6b": {
        "rotary": Rotary(base=10000.0, dimensions=16, kind="default", parameters=()),
        "use_qkv_bias": True,
        "use_parallel_residual": False,
    },
    "falcon-rw-1b": {"rotary": None, "num_kv_heads": 32, "ffn_hidden_size": 8192, "tie_word_embeddings": True},
    "falcon-7b": {
        "rotary": Rotary(base=10000.0, dimensions=64, kind="default", parameters=()),
        "num_kv_heads": 1,
        "num_ln_in_parallel_attn": 1,
    },
    "Olmo-3-7B": {"sliding_window": 4096, "local_rotary": Rotary(500000.0, 128), "max_position_embeddings": 65536},
    "SmolLM3-3B": {
        "no_rope_layers": (1, 1, 1, 0) * 9,
        "rotary": Rotary(5000000.0, 128),
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
    "starcoder2-3b": {"sliding_window": 4096, "use_bias": True, "tie_word_embeddings": True},
    "starcoderbase-1b": {"multi_query": True, "max_position_embeddings": 8192},
    "c4ai-command-r-v01": {"logit_scale": 0.0625, "rotary": Rotary(8e6, 128), "tie_word_embeddings": True},
    "granite-3.0-2b-base": {"residual_multiplier": 0.22, "attention_multiplier": 0.015625, "head_dim": 64},
    "codegen-350M-mono": {"rotary_dim": 32, "n_inner": 4096},
    "mpt-7b": {"max_position_embeddings": 2048, "tie_word_embeddings": True, "clip_qkv": None, "head": "lm"},
    "opt-350m": {"projected": True, "final_norm": False, "enable_bias": True, "tie_word_embeddings": True},
    "distilbert-base-uncased-finetuned-sst-2-english": {"head": "classes", "num_labels": 2},
    "bert-base-NER": {"head": "token_classes", "num_labels": 9, "pooler": False},
    "bart-large-mnli": {"head": "classes", "num_labels": 3, "eos_token_id": 2},
    "deberta-v3-base": {"head": "none", "pos_att_type": ("c2p", "p2c"), "span": 256, "own_projections": {}},
    "nli-deberta-v3-base": {"head": "classes", "num_labels": 3, "max_relative_positions": 512, "type_vocab_size": None},
    "deberta-base-mnli": {"head": "classes", "span": 512, "own_projections": {"P_K": False, "P_Q": True}},
    "electra-small-discriminator": {"head": "discriminator", "num_labels": 1, "embedding_size": 128},
    "bloom-560m": {"hidden_size": 1024, "n_head": 16, "max_position_embeddings": None, "tie_word_embeddings": True},
}
"""What is read from each model's file."""


def stated(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "hub_configs" / f"{name}.json").read_text())


WARNED: dict[str, dict[str, Any]] = {
    "roberta-base-squad2": {"head": "answers", "num_labels": 2, "max_position_embeddings": 512},
    "ms-marco-MiniLM-L-6-v2": {"head": "classes", "num_labels": 1, "pooler": True},
}
"""What is read of files with fields that transformers does not know."""


@pytest.mark.parametrize("name", WARNED)
def test_fields_of_others_are_passed_over(name: str):
    with pytest.warns(UserWarning, match="passed over"):
        config = FAMILIES[stated(name)["model_type"]].config_type.from_hf(stated(name))
    assert {field: getattr(config, field) for field in WARNED[name]} == WARNED[name]


@pytest.mark.parametrize("name", READ)
def test_configs_of_the_hub_are_read(name: str):
    given = stated(name)
    config = FAMILIES[given["model_type"]].config_type.from_hf(given)
    assert {field: getattr(config, field) for field in READ[name]} == READ[name]
