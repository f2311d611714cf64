from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jaxheads.models.loading.gguf_rope import LLAMA3
from jaxheads.models.loading.sources import open_checkpoint

HIDDEN, HEADS, KV_HEADS, HEAD, MLP, VOCABULARY, LAYERS = 64, 4, 2, 16, 96, 32, 2
NAMES = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q.weight": (HEADS * HEAD, HIDDEN),
    "attn_k.weight": (KV_HEADS * HEAD, HIDDEN),
    "attn_v.weight": (KV_HEADS * HEAD, HIDDEN),
    "attn_output.weight": (HIDDEN, HEADS * HEAD),
    "ffn_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (MLP, HIDDEN),
    "ffn_up.weight": (MLP, HIDDEN),
    "ffn_down.weight": (HIDDEN, MLP),
}


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's converter, convert_hf_to_gguf.py (`LlamaModel.permute`)."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in NAMES.items()}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, arrays: dict[str, np.ndarray], kinds: dict | None = None, extra=None, arch="llama") -> Path:
    writer = GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(HEAD)
    if extra is not None:
        extra(writer)
    for name, values in arrays.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_config_is_in_hugging_face_s_words(tmp_path):
    config = open_checkpoint(write(tmp_path / "x.gguf", tensors())).config
    assert config == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "vocab_size": VOCABULARY,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def test_q_and_k_lose_llama_cpp_s_permutation_and_every_name_is_transformers(tmp_path):
    arrays = tensors() | {"output.weight": tensors(1)["token_embd.weight"]}
    permuted = {
        name: permute(a, HEADS if "attn_q" in name else KV_HEADS) if "attn_q" in name or "attn_k" in name else a
        for name, a in arrays.items()
    }
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", permuted))
    assert checkpoint.config["tie_word_embeddings"] is False
    model = LlamaForCausalLM(LlamaConfig(**checkpoint.config))
    assert checkpoint.tensors.keys() == model.state_dict().keys()
    for name, values in model.state_dict().items():
        assert checkpoint.tensors[name].shape == checkpoint.tensors[name].read().shape == tuple(values.shape)
    for n in range(LAYERS):
        for ours, theirs in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("o_proj", "attn_output")):
            got = checkpoint.tensors[f"model.layers.{n}.self_attn.{ours}.weight"].read()
            np.testing.assert_array_equal(got, arrays[f"blk.{n}.{theirs}.weight"])
    np.testing.assert_array_equal(checkpoint.tensors["lm_head.weight"].read(), arrays["output.weight"])


def test_biases_of_q_and_k_are_permuted_too(tmp_path):
    biases = {}
    for n in range(LAYERS):
        for name, size in (
            ("q", HEADS * HEAD),
            ("k", KV_HEADS * HEAD),
            ("v", KV_HEADS * HEAD),
            ("output", HIDDEN),
        ):
            biases[f"blk.{n}.attn_{name}.bias"] = np.arange(size, dtype=np.float32)
    stored = {
        name: permute(a, HEADS if "attn_q" in name else KV_HEADS) if name.split(".")[2] in ("attn_q", "attn_k") else a
        for name, a in biases.items()
    }
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", tensors() | stored))
    assert checkpoint.config["attention_bias"] is True
    assert checkpoint.config["mlp_bias"] is False
    for name in ("q", "k", "v", "o"):
        got = checkpoint.tensors[f"model.layers.1.self_attn.{name}_proj.bias"].read()
        np.testing.assert_array_equal(got, np.arange(len(got)))


KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16", "BF16"]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_formats_are_read(tmp_path, kind):
    arrays, quantised = tensors(), GGMLQuantizationType[kind]
    name = "blk.0.ffn_up.weight"
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", arrays, {name: quantised}))
    tensor = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
    got = tensor.read()
    assert tensor.shape == got.shape == (MLP, HIDDEN)
    assert tensor.dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kind, kind)
    assert got.dtype == {"F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(kind, np.float32)
    expected = dequantize(quantize(arrays[name], quantised), quantised).reshape(MLP, HIDDEN)
    np.testing.assert_array_equal(got.astype(np.float32), expected)
    np.testing.assert_allclose(got.astype(np.float32), arrays[name], atol=0.5)


def test_a_quantised_q_is_dequantised_before_it_is_reordered(tmp_path):
    arrays, name = tensors(), "blk.0.attn_q.weight"
    stored = arrays | {name: permute(arrays[name], HEADS)}
    checkpoint = open_checkpoint(write(tmp_path / "x.gguf", stored, {name: GGMLQuantizationType.Q8_0}))
    got = checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].read()
    np.testing.assert_allclose(got, arrays[name], atol=0.03)


@pytest.mark.parametrize("kept", [0, 3, 20, 100, 400, -1])
def test_a_gguf_cut_off_anywhere_is_one_clear_error(tmp_path, kept):
    path = write(tmp_path / "x.gguf", tensors())
    path.write_bytes(path.read_bytes()[:kept] if kept >= 0 else path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"x\.gguf (can't be read as GGUF: it is cut off|isn't a GGUF file)"):
        open_checkpoint(path)


def test_a_wrong_magic_is_told(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGMLxxxxxxxxxxx")
    with pytest.raises(ValueError, match="starts with b'GGML', expected b'GGUF'"):
        open_checkpoint(tmp_path / "x.gguf")


def test_an_unknown_architecture_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="'mamba'; known are gemma2, gemma3, gptneox, llama, qwen2, qwen3"):
        open_checkpoint(write(tmp_path / "x.gguf", tensors(), arch="mamba"))


def test_unknown_tensors_are_listed(tmp_path):
    arrays = tensors() | {"blk.0.ffn_gate_inp.weight": np.zeros((2, 32), np.float32)}
    with pytest.raises(ValueError, match=r"1 tensors that.*blk\.0\.ffn_gate_inp\.weight"):
        open_checkpoint(write(tmp_path / "x.gguf", arrays))


def test_metadata_that_would_change_the_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"doesn't translate: attention\.sliding_window"):
        open_checkpoint(write(tmp_path / "x.gguf", tensors(), extra=lambda w: w.add_sliding_window(8)))
    with pytest.raises(ValueError, match="mixtures of experts"):
        open_checkpoint(write(tmp_path / "y.gguf", tensors(), extra=lambda w: w.add_expert_count(4)))
    with pytest.raises(ValueError, match=r"attention\.value_length is 8"):
        open_checkpoint(write(tmp_path / "z.gguf", tensors(), extra=lambda w: w.add_value_length(8)))


def scaling(kind: str, factor: float):
    def add(writer: GGUFWriter) -> None:
        writer.add_string("llama.rope.scaling.type", kind)
        writer.add_float32("llama.rope.scaling.factor", factor)

    return add


def test_rotary_scaling_is_passed_on_or_refused(tmp_path):
    linear = open_checkpoint(write(tmp_path / "x.gguf", tensors(), extra=scaling("linear", 4.0)))
    assert linear.config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    yarn = open_checkpoint(write(tmp_path / "y.gguf", tensors(), extra=scaling("yarn", 2.0)))
    assert yarn.config["rope_scaling"] == {"rope_type": "yarn", "factor": 2.0}
    with pytest.raises(ValueError, match="'longrope' with factor isn't known; known are linear"):
        open_checkpoint(write(tmp_path / "z.gguf", tensors(), extra=scaling("longrope", 2.0)))


def test_llama_3_s_scaling_is_found_again_from_its_frequency_factors(tmp_path):
    said = {"rope_type": "llama3", "factor": 32.0, **LLAMA3}
    model = LlamaConfig(head_dim=HEAD, rope_parameters={**said, "rope_theta": 500000.0}, max_position_embeddings=131072)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](model, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    factors = (plain / frequencies.numpy()).astype(np.float32)
    path = write(tmp_path / "x.gguf", tensors() | {"rope_freqs.weight": factors})
    assert open_checkpoint(path).config["rope_scaling"] == pytest.approx(said)
    odd = write(tmp_path / "y.gguf", tensors() | {"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ValueError, match=r"rope_freqs\.weight"):
        open_checkpoint(odd)
