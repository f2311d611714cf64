"""Configs in the spelling of transformers 4, as the hub has them."""

from typing import Any

import pytest

from jaxheads.models.families import FAMILIES
from jaxheads.models.positions import Rotary

HUB: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {
            "model_type": "gpt_neox",
            "architectures": ["GPTNeoXForCausalLM"],
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "gelu",
            "hidden_size": 512,
            "initializer_range": 0.02,
            "intermediate_size": 2048,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "num_attention_heads": 8,
            "num_hidden_layers": 6,
            "rotary_emb_base": 20000,
            "rotary_pct": 0.5,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.24.0",
            "use_cache": True,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
        {"rotary": Rotary(20000.0, 32), "attention_bias": True},
    ),
    (
        {
            "model_type": "gptj",
            "architectures": ["GPTJForCausalLM"],
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "gradient_checkpointing": False,
            "layer_norm_epsilon": 1e-05,
            "n_embd": 4096,
            "n_head": 16,
            "n_inner": None,
            "n_layer": 28,
            "n_positions": 2048,
            "resid_pdrop": 0.0,
            "rotary": True,
            "rotary_dim": 64,
            "scale_attn_weights": True,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "tie_word_embeddings": False,
            "tokenizer_class": "GPT2Tokenizer",
            "task_specific_params": {"text-generation": {"do_sample": True}},
            "use_cache": True,
            "vocab_size": 50400,
        },
        {"n_inner": 16384, "max_position_embeddings": 2048},
    ),
    (
        {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "_remove_final_layer_norm": False,
            "activation_dropout": 0.0,
            "activation_function": "relu",
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "do_layer_norm_before": False,
            "dropout": 0.1,
            "eos_token_id": 2,
            "ffn_dim": 4096,
            "hidden_size": 1024,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "max_position_embeddings": 2048,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "pad_token_id": 1,
            "prefix": "</s>",
            "vocab_size": 50272,
            "word_embed_proj_dim": 512,
        },
        {"projected": True, "final_norm": False, "enable_bias": True, "tie_word_embeddings": True},
    ),
    (
        {
            "model_type": "bloom",
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "attention_softmax_in_fp32": True,
            "bias_dropout_fusion": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "masked_softmax_fusion": True,
            "n_embed": 1024,
            "n_inner": None,
            "n_layer": 24,
            "num_attention_heads": 16,
            "offset_alibi": 100,
            "pad_token_id": 3,
            "pretraining_tp": 2,
            "skip_bias_add": True,
            "skip_bias_add_qkv": False,
            "slow_but_exact": False,
            "unk_token_id": 0,
            "vocab_size": 250880,
        },
        {"hidden_size": 1024, "n_head": 16, "max_position_embeddings": None, "tie_word_embeddings": True},
    ),
]
"""What a config.json says, and what is read from it."""


@pytest.mark.parametrize(("stated", "read"), HUB)
def test_configs_of_the_hub_are_read(stated: dict[str, Any], read: dict[str, Any]):
    config = FAMILIES[stated["model_type"]].config_type.from_hf(stated)
    assert {name: getattr(config, name) for name in read} == read
