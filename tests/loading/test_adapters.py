"""LoRA adapters that PEFT wrote, merged at load, compared with PEFT's own merge."""

import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import jaxheads as jh

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "bos_token_id": 0},
    "llama": {
        **{"vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0},
    },
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("llama", {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 6}),
    "square Conv1D": ("gpt2", {"target_modules": ["c_proj", "c_attn"], "bias": "all"}),
    "patterns": (
        "llama",
        {
            **{"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
            **{"rank_pattern": {"down_proj": 4}, "alpha_pattern": {"layers.1.self_attn.q_proj": 32}},
        },
    ),
    "biases": ("gpt2", {"target_modules": ["c_fc"], "bias": "lora_only", "lora_bias": True}),
    "dora": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "lm_head"], "modules_to_save": ["norm"]}),
    "embedding dora": ("llama", {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True}),
    "whole modules": ("llama", {"target_modules": ["k_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
}
TOKENS = np.arange(14).reshape(2, 7)


@functools.cache
def configured(name: str) -> Any:
    return transformers.AutoConfig.for_model(name, **SIZES[name], eos_token_id=0, tie_word_embeddings=False)


def randomised(model: Any) -> Any:
    """The model with other values of what is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def made(folder: Path, name: str, options: dict[str, Any], config: Any = None) -> Any:
    """Write a base and an adapter of it; return the adapted model."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(config or configured(name))
    randomised(base).save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fan_in_fan_out and of tied weights
        base.name_or_path = base.config._name_or_path = str(folder / "base")
        adapted = randomised(peft.get_peft_model(base, peft.LoraConfig(**{"r": 2, **options})))
        adapted.save_pretrained(folder / "adapter")
    return adapted


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def close(model: jh.Model, expected: np.ndarray) -> bool:
    return bool(
        np.abs(jh.run(model, jh.Batch(TOKENS)).output - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    )


def restored(folder: Path) -> Any:
    """The adapter on a fresh copy of its base, as a user of PEFT loads it."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, folder / "adapter").eval()


@pytest.mark.parametrize("case", CASES)
def test_a_merged_adapter_equals_peft_s_merge(case: str, tmp_path: Path):
    name, options = CASES[case]
    made(tmp_path, name, options)
    merged = restored(tmp_path).merge_and_unload()
    expected = logits(merged)
    base = jh.load(tmp_path / "base")
    model = jh.load(tmp_path / "adapter")
    assert close(model, expected)
    assert not close(base, expected)
    assert model.identity() != base.identity()
    assert model.name == "adapter"
    if case == "dora":
        named = jh.load(tmp_path / "base", adapter=tmp_path / "adapter")
        assert close(named, expected)
        assert named.name.startswith("base with")


def test_tied_embeddings_that_an_adapter_changes_are_tied_no_more(tmp_path: Path):
    config = transformers.AutoConfig.for_model("gpt2", **SIZES["gpt2"], eos_token_id=0)
    for folder, options in (
        ("lora", {"target_modules": ["lm_head", "c_fc"]}),
        ("whole", {"target_modules": ["c_fc"], "modules_to_save": ["lm_head"]}),
    ):
        made(tmp_path / folder, "gpt2", options, config)
        model = jh.load(tmp_path / folder / "adapter")
        assert close(model, logits(restored(tmp_path / folder)))
        assert not model.config.tie_word_embeddings


def test_a_pickled_adapter_in_half_precision_and_a_base_with_short_names(tmp_path: Path):
    made(tmp_path, "gpt2", {"target_modules": ["c_attn"]})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(file).items()}
    torch.save(half, tmp_path / "adapter" / "adapter_model.bin")
    file.unlink()
    weights = tmp_path / "base" / "model.safetensors"
    short = {name.removeprefix("transformer."): tensor for name, tensor in load_file(weights).items()}
    expected = logits(restored(tmp_path).merge_and_unload())
    save_file(short, weights, {"format": "pt"})
    assert close(jh.load(tmp_path / "adapter"), expected)


@pytest.mark.parametrize("name", ["gpt2", "roberta"])
def test_an_adapter_brings_the_classifier_that_its_base_has_not(name: str, tmp_path: Path):
    sizes = SIZES["gpt2"] | {"pad_token_id": 0}
    if name == "roberta":
        sizes = {**SIZES["llama"], "max_position_embeddings": 20, "pad_token_id": 1}
    config = transformers.AutoConfig.for_model(name, **sizes, eos_token_id=0)
    kind = transformers.AutoModelForCausalLM if name == "gpt2" else transformers.AutoModelForMaskedLM
    randomised(kind.from_config(config)).save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
        adapted = randomised(peft.get_peft_model(whole, peft.LoraConfig(r=2, task_type="SEQ_CLS")))
        adapted.save_pretrained(tmp_path / "adapter")
    model = jh.load(tmp_path / "adapter")
    tokens = TOKENS + 5
    with torch.no_grad():
        expected = adapted(torch.tensor(tokens)).logits.numpy()
    given = jh.run(model, jh.Batch(tokens)).output
    assert given.shape == (2, 3)
    assert np.abs(given - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def changed(folder: Path, **fields: Any) -> Path:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder / "adapter"


def test_an_adapter_of_the_hub_is_merged_into_any_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made(tmp_path, "gpt2", {"target_modules": ["c_attn"]})
    asked = []
    monkeypatch.setattr(
        "jaxheads.models.loading.sources.hub_adapter", lambda source: asked.append(source) or tmp_path / "adapter"
    )
    model = jh.load(tmp_path / "base", adapter="owner/adapter")
    assert close(model, logits(restored(tmp_path).merge_and_unload()))
    assert model.name == "base with owner/adapter"
    assert asked == ["owner/adapter"]


def test_what_is_not_covered_is_refused(tmp_path: Path):
    made(tmp_path, "llama", {"target_modules": ["q_proj"]})
    for fields, message in (
        ({"peft_type": "IA3"}, "adapter of the kind 'IA3'; covered is LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' of the adapter is not covered; merge it"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.weight"]}, "target_parameters"),
        ({"base_model_name_or_path": None}, r"names no base model: jh\.load\(base, adapter="),
        ({"base_model_name_or_path": "/nowhere/base"}, r"adapter of '/nowhere/base', which can't be opened.*adapter="),
    ):
        plain = {"peft_type": "LORA", "init_lora_weights": True, "layer_replication": None, "target_parameters": None}
        with pytest.raises((ValueError, OSError), match=message):
            jh.load(changed(tmp_path, **plain | fields))
    with pytest.raises(FileNotFoundError, match=r"no adapter '\./nowhere'"):
        jh.load(tmp_path / "base", adapter="./nowhere")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        jh.load(tmp_path / "base", adapter=tmp_path / "base")


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path):
    made(tmp_path, "llama", {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(file)
    A = next(name for name in whole if name.endswith("lora_A.weight"))
    for tensors, message in (
        ({name: tensor for name, tensor in whole.items() if name != A}, r"q_proj with lora_B"),
        (whole | {A: torch.ones(2, 3)}, r"q_proj is \(16, 16\), its adapter \(16, 2\) times \(2, 3\)"),
        (whole | {"base_model.model.nowhere.lora_A.weight": torch.ones(2, 3)}, "nowhere with lora_A is not in it"),
        (whole | {"base_model.model.nowhere.weight": torch.ones(2)}, r"not known: nowhere\.weight"),
    ):
        save_file(tensors, file)
        with pytest.raises(ValueError, match=message):
            jh.load(tmp_path / "adapter")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model\.safetensors or adapter_model\.bin"):
        jh.load(tmp_path / "adapter")
    shutil.copy(tmp_path / "base" / "model.safetensors", tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"holds a whole model \(model\.safetensors\) and an adapter"):
        jh.load(tmp_path / "adapter")
