"""The table of a family's tensors: complete both ways, and strict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.weights import export

from .huggingface import SMALL, build
from .specs import SPECS

Tensors = dict[str, np.ndarray]
VARIANTS = [
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 10}),
    ("GPT2LMHeadModel", {}),
    ("GPT2LMHeadModel", {"tie_word_embeddings": False, "n_inner": 20}),
    ("BertForMaskedLM", {}),
    ("BertForPreTraining", {"tie_word_embeddings": False}),
]


def saved(architecture: str, directory: Path, **config: Any) -> Tensors:
    """A random model's directory, and its tensors."""
    build(architecture, **config).save_pretrained(directory)
    return load_file(directory / "model.safetensors")


def rewritten(directory: Path, tensors: Tensors) -> jh.Model:
    save_file(tensors, directory / "model.safetensors")
    return jh.load(str(directory))


def exported(model: jh.Model) -> Tensors:
    return export(model.network, FAMILIES[model.config.model_type].table(model.config))


@pytest.mark.parametrize(("architecture", "config"), VARIANTS)
def test_export_gives_back_every_tensor_bit_for_bit(architecture: str, config: dict, tmp_path: Path):
    stored = saved(architecture, tmp_path, **config)
    first = jh.load(str(tmp_path))
    given = exported(first)
    unused = {"cls.predictions.bias"} if architecture == "BertForPreTraining" else set()
    unused |= {name for name in stored if name.startswith("cls.seq_relationship")}
    assert set(given) == set(stored) - unused
    for name, tensor in given.items():
        assert np.array_equal(tensor, stored[name]), name
    again = exported(rewritten(tmp_path, given))
    assert all(np.array_equal(again[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize(
    "name", ["gpt_neox", "gptj", "opt", "bloom", "phi3", "stablelm", "falcon", "cohere", "codegen"]
)
def test_what_is_fused_or_reordered_is_given_back_bit_for_bit(name: str, tmp_path: Path):
    SPECS[name].build().save_pretrained(tmp_path)
    stored, given = load_file(tmp_path / "model.safetensors"), exported(jh.load(str(tmp_path)))
    assert set(given) == set(stored)
    for tensor, value in given.items():
        assert np.array_equal(value, stored[tensor]), tensor


def test_weights_stored_in_bfloat16_are_read_as_they_are(tmp_path: Path):
    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in saved(SMALL["gpt2"], tmp_path).items()}
    given = exported(rewritten(tmp_path, tensors))
    assert all(np.array_equal(given[name], value.astype(np.float32)) for name, value in tensors.items())
    assert given["transformer.wte.weight"].dtype == jnp.float32


def test_all_that_is_wrong_is_said_in_one_error(tmp_path: Path):
    tensors = saved(SMALL["llama"], tmp_path)
    del tensors["model.layers.1.self_attn.q_proj.weight"], tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(6, np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.ones((40, 24), np.float32)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    tensors["model.layers.0.self_attn.o_proj.weight"] = np.ones((24, 23), np.float32)
    with pytest.raises(ValueError, match="does not fit its config") as caught:
        rewritten(tmp_path, tensors)
    for part in (
        "2 tensors are missing: ",
        "model.norm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "2 tensors are not known: model.layers.0.self_attn.q_norm.weight, model.layers.2.mlp.up_proj.weight",
        "2 tensors have another shape: ",
        "lm_head.weight is (36, 24), expected (37, 24)",
        "model.layers.0.self_attn.o_proj.weight is (24, 23), expected (24, 24)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path):
    tensors = saved(SMALL["bert"], tmp_path)
    for name in ("bert.embeddings.LayerNorm.bias", "bert.encoder.layer.1.output.dense.weight"):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[3] = value
    with pytest.raises(ValueError, match=r"NaN or infinite values: bert\.embeddings.*layer\.1\.output\.dense\.weight$"):
        rewritten(tmp_path, tensors)


def without_prefix(prefix: str) -> Callable[[str], str]:
    return lambda name: name.removeprefix(prefix)


OLDER = [
    (
        "GPT2LMHeadModel",
        without_prefix("transformer."),
        {"h.0.attn.bias": (1, 1, 64, 64), "h.1.attn.masked_bias": ()},
    ),
    ("GPT2LMHeadModel", str, {"transformer.h.1.attn.bias": (1, 1, 64, 64)}),
    ("LlamaModel", str, {"layers.0.self_attn.rotary_emb.inv_freq": (3,)}),
    ("LlamaModel", lambda name: f"model.{name}", {"lm_head.weight": (37, 24)}),
    ("BertModel", str, {"embeddings.position_ids": (1, 64)}),
    (
        "BertModel",
        lambda name: f"bert.{name}",
        {"cls.predictions.bias": (37,), "cls.seq_relationship.bias": (2,)},
    ),
    (
        "BertForMaskedLM",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        {"bert.pooler.dense.bias": (24,), "bert.embeddings.position_ids": (1, 64)},
    ),
]


@pytest.mark.parametrize(("architecture", "older", "more"), OLDER)
def test_older_names_and_buffers_load_to_the_same(
    architecture: str, older: Callable[[str], str], more: dict[str, tuple[int, ...]], tmp_path: Path
):
    tensors = saved(architecture, tmp_path)
    expected = exported(jh.load(str(tmp_path)))
    extra = {name: np.zeros(shape, np.float32) for name, shape in more.items()}
    given = exported(rewritten(tmp_path, {older(name): value for name, value in tensors.items()} | extra))
    assert {older(name) for name in tensors} != set(tensors) or older is str
    assert given.keys() == expected.keys()
    assert all(np.array_equal(given[name], value) for name, value in expected.items())


def test_a_copy_must_be_one(tmp_path: Path):
    tensors = saved("GPT2LMHeadModel", tmp_path)
    words = tensors["transformer.wte.weight"]
    expected = exported(jh.load(str(tmp_path)))
    given = exported(rewritten(tmp_path, {**tensors, "lm_head.weight": words}))
    assert all(np.array_equal(given[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match=r"these are the same: lm_head\.weight and transformer\.wte\.weight"):
        rewritten(tmp_path, {**tensors, "lm_head.weight": 2 * words})


def test_a_tensor_under_two_names_is_refused(tmp_path: Path):
    tensors = saved("GPT2LMHeadModel", tmp_path)
    with pytest.raises(ValueError, match=r"has transformer\.ln_f\.bias twice, under this name and an older one"):
        rewritten(tmp_path, {**tensors, "ln_f.bias": 1 + tensors["transformer.ln_f.bias"]})
