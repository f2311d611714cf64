"""Language models in checkpoints that also see images: names of every age, configs that leave out what is usual."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxheads as jh
from jaxheads.models.families import FAMILIES

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small
from .test_saving import assert_same_bits

FAMILIES_WITH_IMAGES = ("llava", "llava_next", "gemma3")


def renamed(folder: Path, name: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name(old): value for old, value in tensors.items()}, folder / "model.safetensors")


def newest(name: str) -> str:
    """As transformers 4.52 and later hold them: one model around all, and the head outside."""
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return f"model.{name.replace('language_model.model.', 'language_model.', 1)}"
    return f"model.{name}" if name.startswith(("vision_tower", "multi_modal_projector", "image_newline")) else name


def oldest(name: str) -> str:
    """As they were before: a whole causal language model inside."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.", 1)
    return name.removeprefix("model.") if name.startswith(("model.vision_tower", "model.multi_modal")) else name


@pytest.mark.parametrize("family", FAMILIES_WITH_IMAGES)
@pytest.mark.parametrize("names", [newest, oldest])
def test_names_of_every_age(family: str, names: Any, tmp_path: Path):
    both = small(family)
    both.theirs.save_pretrained(tmp_path)
    renamed(tmp_path, names)
    stored = load_file(tmp_path / "model.safetensors")
    prefix = "model.language_model." if names is newest else "language_model.model."
    assert any(name.startswith(f"{prefix}layers.0.") for name in stored)
    assert not any(name.startswith("model.layers.") for name in stored)
    assert_same_bits(jh.load(tmp_path), both.ours)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_what_a_config_leaves_out_is_what_transformers_takes(family: str):
    """As the hub has LLaVA 1.5: the text config says little."""
    text = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "model_type": "llama"}
    text |= {
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
        "vocab_size": 32064,
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
    }
    stated = {"ignore_index": -100, "image_token_index": 32000, "projector_hidden_act": "gelu", "vision_config": {}}
    stated |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "pad_token_id": 32001}
    config = FAMILIES[family].config_type.from_hf({"model_type": family, **stated, "text_config": text})
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (4096, 11008, 32)
    assert (config.num_key_value_heads, config.vocab_size, config.rms_norm_eps) == (32, 32064, 1e-5)
    assert (config.head, config.tie_word_embeddings, config.rotary.base) == ("lm", False, 10000.0)
    mistral = {"model_type": "mistral", "vocab_size": 32064, "rope_theta": 1e6, "sliding_window": None}
    config = FAMILIES[family].config_type.from_hf({"model_type": family, **stated, "text_config": mistral})
    assert (config.model_type, config.num_key_value_heads, config.rotary.base) == ("mistral", 8, 1e6)
    assert config.sliding_window is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"model_type": "gpt2"}, "of the family 'gpt2', not covered"),
        ({"model_type": "unheard-of"}, "of the family 'unheard-of', not covered"),
        ({"model_type": "llama", "hidden_size": "many"}, "transformers refuses the llama config"),
        ({"model_type": "llama", "hidden_act": "gelu_10"}, "activation 'gelu_10' is not known"),
    ],
)
def test_language_models_that_are_not_covered(text: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.init({"model_type": "llava", "text_config": text})


def test_questions_of_the_language_model(tmp_path: Path):
    """Measures and sweeps, and the model written and read again."""
    both = small("llava")
    batch = SPECS["llava"].batch(both.theirs)
    written = jh.load(jh.to_hf(both.ours, tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "llava"
    ours = jh.ablate(both.ours, batch, jh.logit_difference(1, 2), "zero")
    assert_close(
        np.asarray(jh.ablate(written, batch, jh.logit_difference(1, 2), "zero").values), np.asarray(ours.values)
    )
    assert jh.measure(both.ours, batch, "entropy").values.shape == (2, 4)
