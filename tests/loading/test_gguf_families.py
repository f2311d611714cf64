"""GGUF files of each architecture, as llama.cpp's converter writes them, give what `transformers` gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter
from gguf.tensor_mapping import get_tensor_name_map

import jaxheads as jh
from jaxheads.models.loading.sources import open_checkpoint

SIZES = {
    "vocab_size": 32,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-3,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
GEMMA = {"query_pre_attn_scalar": 8, "tie_word_embeddings": True, "sliding_window": 3}
ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2ForCausalLM", {"head_dim": None, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "qwen3": ("Qwen3ForCausalLM", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "gemma2": ("Gemma2ForCausalLM", {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3ForCausalLM", {**GEMMA, "rope_parameters": ROPES}),
}
"""By GGUF's name, the class in `transformers` and what its config has beside SIZES."""


def build(name: str, **more: Any) -> Any:
    """A random model; its biases and norms are random too."""
    architecture, own = MODELS[name]
    cls = getattr(transformers, architecture)
    settings = {key: value for key, value in {**SIZES, **own, **more}.items() if value is not None}
    model = cls._from_config(cls.config_class(**settings), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator) + (0.5 if value.ndim == 1 else 0))
    return model


def write(path: Path, name: str, model: Any, leave_out: tuple[str, ...] = ()) -> Path:
    """As convert_hf_to_gguf.py does: its metadata, its tensor names, and 1 added to Gemma's norms."""
    config, writer = model.config, GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if name != "qwen2":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    else:
        everywhere = config.rope_parameters.get("full_attention", config.rope_parameters)
        writer.add_rope_freq_base(everywhere["rope_theta"])
        if "factor" in everywhere:
            writer.add_string(f"{name}.rope.scaling.type", "linear")
            writer.add_rope_scaling_factor(everywhere["factor"])
    if name == "gemma3":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if name.startswith("gemma") and "sliding_window" not in leave_out:
        writer.add_sliding_window(config.sliding_window)
    add_tensors(writer, name, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensors(writer: GGUFWriter, name: str, model: Any) -> None:
    kind = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == name)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    for stored, value in model.state_dict().items():
        if stored == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = value.numpy()
        if name.startswith("gemma") and stored.endswith("norm.weight"):
            values = values + np.float32(1)
        target = names.get_name(stored, try_suffixes=(".weight", ".bias"))
        assert target is not None, stored
        writer.add_tensor(target, values)


def assert_same(theirs: Any, path: Path) -> None:
    """Logits of a sequence longer than the window."""
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 9))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(jh.run(jh.load(str(path)), jh.Batch(tokens)).output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_gguf_file_gives_what_transformers_gives(tmp_path: Path, name: str):
    model = build(name)
    path = write(tmp_path / "x.gguf", name, model)
    stored = {key for key in model.state_dict() if key != "lm_head.weight" or not model.config.tie_word_embeddings}
    assert open_checkpoint(path).tensors.keys() == stored
    assert_same(model, path)


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox_has_its_heads_back(tmp_path: Path, parallel: bool):
    """Fused tensors head by head, a part of each head that turns, LayerNorms with biases."""
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings")}
    cls: Any = transformers.GPTNeoXForCausalLM
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1 / 3}
    settings = cls.config_class(
        **sizes,
        num_hidden_layers=3,
        num_attention_heads=4,
        layer_norm_eps=1e-3,
        rope_parameters=rope,
        use_parallel_residual=parallel,
    )
    model = cls._from_config(settings, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator) + (0.5 if value.ndim == 1 else 0))
    path, writer = tmp_path / "x.gguf", GGUFWriter(tmp_path / "x.gguf", "gptneox")
    writer.add_block_count(3)
    writer.add_embedding_length(24)
    writer.add_feed_forward_length(40)
    writer.add_head_count(4)
    writer.add_context_length(64)
    writer.add_layer_norm_eps(1e-3)
    writer.add_rope_dimension_count(2)
    writer.add_parallel_residual(parallel)
    names = get_tensor_name_map(MODEL_ARCH.GPTNEOX, 3)
    for stored, value in model.state_dict().items():
        if "rotary_emb" in stored or stored.endswith(("attention.bias", "masked_bias")):
            continue
        values = value.numpy()
        if "query_key_value" in stored:  # as convert_hf_to_gguf.py: by head, then by kind
            values = np.concatenate([values.reshape(4, 3, 6, *values.shape[1:])[:, kind] for kind in range(3)])
            values = np.ascontiguousarray(values.reshape(72, *values.shape[2:]))
        target = names.get_name(stored, try_suffixes=(".weight", ".bias"))
        assert target is not None, stored
        writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_same(model, path)


def test_qwen3_may_have_biases(tmp_path: Path):
    model = build("qwen3", attention_bias=True)
    assert_same(model, write(tmp_path / "x.gguf", "qwen3", model))


def test_gemma_3_without_a_window_has_none_anywhere(tmp_path: Path):
    model = build("gemma3", layer_types=["full_attention"] * SIZES["num_hidden_layers"])
    assert_same(model, write(tmp_path / "x.gguf", "gemma3", model, leave_out=("sliding_window",)))


def test_gemma_s_norms_lose_the_one_that_the_converter_added(tmp_path: Path):
    model = build("gemma3")
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", "gemma3", model))
    norms = [key for key in model.state_dict() if key.endswith("norm.weight")]
    assert len(norms) == 6 * SIZES["num_hidden_layers"] + 1
    for key in norms:
        np.testing.assert_allclose(checkpoint.tensors[key].read(), model.state_dict()[key].numpy(), atol=2e-7)


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_queries_by_the_width_per_head(tmp_path: Path, name: str, layers: int):
    scalars = []
    for count in (layers, layers - 1):
        model = build(name, num_hidden_layers=count, intermediate_size=4)
        scalars.append(open_checkpoint(write(tmp_path / "x.gguf", name, model)).config["query_pre_attn_scalar"])
    assert scalars == [24 // 4, 8]


def test_windows_of_qwen_which_no_converter_writes_are_refused(tmp_path: Path):
    path = tmp_path / "x.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_sliding_window(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"doesn't translate: attention\.sliding_window"):
        open_checkpoint(path)
