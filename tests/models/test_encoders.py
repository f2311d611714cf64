"""BERT's successors: what the parity of small random models does not show."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.families.modernbert import ModernBertConfig
from jaxheads.models.loading.weights import export
from jaxheads.models.positions import relative_buckets
from jaxheads.models.sharding import placement, shard

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small

ENCODERS = ("roberta", "distilbert", "albert", "mpnet", "modernbert")
BERT = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
ROBERTA = {
    **BERT,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
HUB = {
    "roberta": {**ROBERTA, "architectures": ["RobertaForMaskedLM"], "vocab_size": 50265},
    "xlm-roberta": {
        **ROBERTA,
        "architectures": ["XLMRobertaForMaskedLM"],
        "output_past": True,
        "position_embedding_type": "absolute",
        "transformers_version": "4.17.0.dev0",
        "use_cache": True,
        "vocab_size": 250002,
    },
    "camembert": {**ROBERTA, "architectures": ["CamembertForMaskedLM"], "output_past": True, "vocab_size": 32005},
    "distilbert": {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": 768,
        "dropout": 0.1,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "transformers_version": "4.10.0.dev0",
        "vocab_size": 30522,
    },
    "albert": {
        **BERT,
        "architectures": ["AlbertForMaskedLM"],
        "bos_token_id": 2,
        "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1,
        "embedding_size": 128,
        "eos_token_id": 3,
        "gap_size": 0,
        "hidden_act": "gelu_new",
        "inner_group_num": 1,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "net_structure_type": 0,
        "num_hidden_groups": 1,
        "num_memory_blocks": 0,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30000,
    },
    "mpnet": {
        **BERT,
        "architectures": ["MPNetForMaskedLM"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 514,
        "pad_token_id": 1,
        "relative_attention_num_buckets": 32,
        "vocab_size": 30527,
    },
    "modernbert": {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": 1152,
        "layer_norm_eps": 1e-5,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "pad_token_id": 50283,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": 50368,
    },
}
"""Configs as the hub has them, in the spelling of transformers 4."""

encoders = pytest.mark.parametrize("name", ENCODERS)


def stored(name: str, directory: Path, **config: Any) -> tuple[jh.Model, dict[str, np.ndarray]]:
    """A random model in a directory, and its tensors."""
    SPECS[name].build(**config).save_pretrained(directory)
    return jh.load(str(directory)), load_file(directory / "model.safetensors")


@pytest.mark.parametrize("family", HUB)
def test_configs_of_the_hub_are_understood(family: str):
    config: Any = FAMILIES[family].config_type.from_hf({**HUB[family], "model_type": family})
    assert config.head == "mlm"
    assert config.max_position_embeddings == (8192 if family == "modernbert" else 512)
    assert config.vocab_size == HUB[family]["vocab_size"]


def test_modernbert_s_layers_in_the_spelling_of_transformers_4():
    config = ModernBertConfig.from_hf({**HUB["modernbert"], "model_type": "modernbert"})
    settings = config.settings()
    assert [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"] == [*range(0, 22, 3)]
    assert (config.rotary.base, config.local_rotary.base) == (160000.0, 10000.0)
    assert settings["window"][1] == 65
    assert settings["window"][0] > config.max_position_embeddings
    assert settings["normed"].tolist() == [False] + [True] * 21


def test_modernbert_sees_half_its_window_to_each_side():
    both = small("modernbert")
    pattern = np.asarray(jh.run(both.ours, jh.Batch(np.full((1, 12), 5)), "pattern").seen["pattern"])
    far = np.abs(np.arange(12)[:, None] - np.arange(12)[None]) > 2  # local_attention is 4
    assert (pattern[0] > 0).all()
    assert (pattern[1:, ..., far] == 0).all()
    assert (pattern[1:, ..., ~far] > 0).all()


def test_the_first_layer_of_modernbert_has_no_norm_of_its_own(tmp_path: Path):
    model, tensors = stored("modernbert", tmp_path)
    assert not any("layers.0.attn_norm" in name for name in tensors)
    given = export(model.network, type(model.network).table(model.config))
    assert given.keys() | {"decoder.weight"} == tensors.keys() | {"decoder.weight"}
    tensors["model.layers.0.attn_norm.weight"] = np.ones(24, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors are not known: model\.layers\.0\.attn_norm\.weight"):
        jh.load(str(tmp_path))


def test_mpnet_s_buckets_are_t5_s():
    offsets = np.arange(-700, 701)
    theirs = MPNetEncoder.relative_position_bucket(torch.tensor(offsets)).numpy()
    ours = relative_buckets(jnp.asarray(offsets), buckets=32, furthest=128, both_ways=True)
    assert np.array_equal(ours, theirs)


@encoders
def test_a_tied_decoder_may_be_stored_again_but_must_be_the_same(name: str, tmp_path: Path):
    model, tensors = stored(name, tmp_path)
    table = type(model.network).table(model.config)
    expected = export(model.network, table)
    for copy, original in table.copies.items():
        save_file({**tensors, copy: tensors[original]}, tmp_path / "model.safetensors")
        given = export(jh.load(str(tmp_path)).network, table)
        assert all(np.array_equal(given[key], value) for key, value in expected.items())
        save_file({**tensors, copy: tensors[original] + 1}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"by which these are the same: {copy} and {original}"):
            jh.load(str(tmp_path))


@encoders
def test_what_is_exported_is_what_was_stored(name: str, tmp_path: Path):
    model, tensors = stored(name, tmp_path, tie_word_embeddings=False)
    given = export(model.network, type(model.network).table(model.config))
    assert tensors.keys() - given.keys() <= {"lm_head.bias", "predictions.bias"}
    assert all(np.array_equal(value, tensors[key]) for key, value in given.items())


@encoders
def test_the_context_ends_where_the_table_of_positions_does(name: str, tmp_path: Path):
    model, _ = stored(name, tmp_path, max_position_embeddings=9)
    room = 7 if name in ("roberta", "mpnet") else 9
    tokens = np.full((1, room), 5)
    assert np.isfinite(np.asarray(jh.run(model, jh.Batch(tokens)).output)).all()
    with pytest.raises(ValueError, match=f"takes up to {room} tokens; got {room + 1}"):
        model.check(jh.Batch(np.full((1, room + 1), 5)))


@encoders
def test_every_parameter_has_its_place_on_a_mesh(name: str):
    mesh = jax.make_mesh((1,), ("model",))
    assert len(placement(shard(small(name).ours, mesh)))


@pytest.mark.parametrize("name", ["albert", "mpnet", "modernbert"])
def test_sweeps_take_layers_that_share_weights_a_bias_and_settings_of_each_layer(name: str):
    both = small(name)
    model, batch, objective = both.ours, SPECS[name].batch(both.theirs), jh.logit_difference(5, 6)
    table = jh.ablate(model, batch, objective, method="zero")
    last = np.asarray(batch.last)

    def difference(layer: int, amount: float) -> np.ndarray:
        edit = jh.zero_heads(model, [(layer, 1)], amount=jnp.float32(amount))
        read = np.asarray(jh.run(model, batch, edits=edit).output)[np.arange(len(last)), last]
        return read[:, 5] - read[:, 6]

    for layer in range(model.stack().layers):
        effect = (difference(layer, 1.0) - difference(layer, 0.0)).mean()
        assert_close(table.frame.loc[("encoder", layer, 1), "effect"], effect)
        assert np.abs(effect) > 1e-3
    patched = jh.patch(model, batch, batch, objective, site="z", by=("layer", "head"))
    assert np.abs(patched.frame["effect"]).max() < 1e-5
    measured = jh.measure(model, batch, metrics=("entropy", "previous_token"))
    assert np.isfinite(measured.frame["entropy"]).all()


@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "mpnet"])
def test_pooled_is_that_of_transformers(name: str, tmp_path: Path):
    spec = SPECS[name]
    theirs = spec.build(spec.architectures[1])
    theirs.save_pretrained(tmp_path)
    ours = jh.load(str(tmp_path))
    tokens = np.random.default_rng(0).integers(4, 37, (2, 5))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).pooler_output.numpy()
    batch = jh.Batch(tokens)
    assert_close(ours.network.pooled(jh.run(ours, batch).output, batch), expected)
