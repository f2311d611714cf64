"""Falcon: what its switches mean, ALiBi as it was trained, and the names of its first releases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import jaxheads as jh

from .huggingface import assert_close
from .specs.falcon import RW, SPEC
from .specs.spec import small

OLD_7B = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["RWForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoModel": "modelling_RW.RWModel"},
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "hidden_size": 4544,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "RefinedWebModel",
    "multi_query": True,
    "n_head": 71,
    "n_layer": 32,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.27.4",
    "use_cache": True,
    "vocab_size": 65024,
}
"""tiiuae/falcon-7b as it was first released."""


def test_alibi_is_that_of_the_default_code_of_transformers(tmp_path: Path):
    """Beyond 256 positions too, where ALiBi was rounded to bfloat16."""
    theirs = SPEC.build(None, **RW, num_kv_heads=None, num_attention_heads=12, max_position_embeddings=512)
    theirs.save_pretrained(tmp_path)
    trained = transformers.FalconForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    tokens = np.random.default_rng(0).integers(0, 37, (1, 400))
    with torch.no_grad():
        expected = trained(torch.tensor(tokens)).logits.numpy()
    assert_close(jh.run(jh.load(tmp_path), jh.Batch(tokens)).output, expected)


@pytest.mark.parametrize("kind", ["RefinedWeb", "RefinedWebModel"])
def test_first_releases_load_and_are_written_in_todays_words(kind: str, tmp_path: Path):
    model = (
        small("falcon").ours
        if kind == "RefinedWeb"
        else _load(SPEC.build(None, **RW, num_kv_heads=None), tmp_path / "7b")
    )
    place = jh.to_hf(model, tmp_path / "old")
    config = json.loads((place / "config.json").read_text())
    for old, new in (
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_head_kv", "num_kv_heads"),
    ):
        config[old] = config.pop(new)
    del config["new_decoder_architecture"]
    config |= {"model_type": kind, "architectures": ["RWForCausalLM"]}
    (place / "config.json").write_text(json.dumps(config))
    old = jh.load(place)
    batch = jh.Batch([[4, 9, 23, 7]])
    assert_close(jh.run(old, batch).output, jh.run(model, batch).output)
    assert (
        transformers.AutoModelForCausalLM.from_pretrained(jh.to_hf(old, tmp_path / "new")).config.model_type == "falcon"
    )


def _load(theirs: Any, place: Path) -> jh.Model:
    theirs.save_pretrained(place)
    return jh.load(place)


def test_sizes_of_the_first_7b():
    config = jh.init({**OLD_7B, "n_layer": 1, "hidden_size": 142, "vocab_size": 5}).config
    assert (config.num_attention_heads, config.num_kv_heads, config.ffn_hidden_size) == (71, 1, 568)
    assert (config.parallel_attn, config.num_ln_in_parallel_attn, config.head) == (True, 1, "lm")
