"""Quantised checkpoints, each written by a quantiser of this file and compared with the values that it meant."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.weights import export

CONFIG: dict[str, Any] = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 16},
    **{"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16},
}
Parts = dict[str, np.ndarray]
Quantiser = Callable[[np.ndarray, np.random.Generator], tuple[Parts, np.ndarray]]


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """32-bit integers of the values along the last axis, the first in the lowest bits."""
    count = 32 // bits
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % count)])
    words = np.zeros((*padded.shape[:-1], padded.shape[-1] // count), np.uint32)
    for place in range(count):
        words |= padded[..., place::count].astype(np.uint32) << np.uint32(bits * place)
    return words.view(np.int32)


def gptq(bits: int, *, offset: int = 1, shuffled: bool = False) -> Quantiser:
    def quantise(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
        outputs, inputs = W_OI.shape
        group_I = np.arange(inputs) // 8
        group_I = rng.permutation(group_I) if shuffled else group_I
        groups, most = inputs // 8, 2**bits - 1
        q_IO = rng.integers(0, most + 1, (inputs, outputs))
        zeros_GO = rng.integers(0, most + 1, (groups, outputs))  # also 0, which the first format stores as the largest
        scales_GO = rng.uniform(0.01, 0.1, (groups, outputs)).astype(np.float16)
        parts = {
            "qweight": packed(q_IO.T, bits).T,
            "qzeros": packed((zeros_GO - offset) & most, bits),
            "scales": scales_GO,
            "g_idx": group_I.astype(np.int32),
        }
        meant_IO = scales_GO.astype(np.float64)[group_I] * (q_IO - zeros_GO[group_I])
        return parts, meant_IO.T

    return quantise


def awq(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
    outputs, inputs = W_OI.shape
    group_I = np.arange(inputs) // 8
    q_IO, zeros_GO = rng.integers(0, 16, (inputs, outputs)), rng.integers(0, 16, (inputs // 8, outputs))
    scales_GO = rng.uniform(0.01, 0.1, zeros_GO.shape).astype(np.float16)

    def interleaved(values: np.ndarray) -> np.ndarray:
        words = np.zeros((len(values), outputs // 8), np.uint32)
        for column in range(outputs // 8):
            for nibble, place in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                words[:, column] |= values[:, 8 * column + place].astype(np.uint32) << np.uint32(4 * nibble)
        return words.view(np.int32)

    parts = {"qweight": interleaved(q_IO), "qzeros": interleaved(zeros_GO), "scales": scales_GO}
    return parts, (scales_GO.astype(np.float64)[group_I] * (q_IO - zeros_GO[group_I])).T


def int8(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
    largest_O = np.abs(W_OI).max(axis=1).astype(np.float32)
    q_OI = np.round(W_OI / largest_O[:, None] * 127).astype(np.int8)
    parts = {"weight": q_OI, "SCB": largest_O, "weight_format": np.array(0, np.uint8)}
    return parts, q_OI * (largest_O[:, None].astype(np.float64) / 127)


def four_bit(kind: str, *, nested: bool) -> Quantiser:
    def quantise(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
        codes = np.sort(rng.normal(size=16)).astype(np.float32)
        index = rng.integers(0, 16, W_OI.size)
        about: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(W_OI.shape)}
        blocks = W_OI.size // 64
        parts = {"weight": ((index[::2] << 4) | index[1::2]).astype(np.uint8)[:, None], "weight.quant_map": codes}
        if nested:
            inner, outer = rng.integers(0, 256, blocks).astype(np.uint8), rng.uniform(0.1, 1, -(-blocks // 4))
            map_ = np.linspace(-1, 1, 256).astype(np.float32)
            about |= {"nested_blocksize": 4, "nested_offset": 0.25, "nested_dtype": "float32"}
            parts |= {"weight.absmax": inner, "weight.nested_absmax": outer.astype(np.float32)}
            parts["weight.nested_quant_map"] = map_
            scale = map_[inner] * outer.astype(np.float32)[np.arange(blocks) // 4] + 0.25
        else:
            scale = rng.uniform(0.1, 1, blocks).astype(np.float32)
            parts["weight.absmax"] = scale
        text = json.dumps(about).encode()
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, np.uint8)
        return parts, (codes[index].astype(np.float64) * scale[np.arange(W_OI.size) // 64]).reshape(W_OI.shape)

    return quantise


def fp8(shape_of: Callable[[tuple[int, ...]], tuple[int, ...]], name: str, steps: tuple[int, int] | None) -> Quantiser:
    def quantise(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
        q_OI = rng.normal(size=W_OI.shape).astype(ml_dtypes.float8_e4m3fn)
        scale = rng.uniform(0.5, 2, shape_of(W_OI.shape)).astype(np.float32)
        spread = scale.astype(np.float64)
        if steps is not None:
            spread = np.kron(spread, np.ones(steps))[: W_OI.shape[0], : W_OI.shape[1]]
        parts = {"weight": q_OI, name: scale, "input_scale": np.ones((), np.float32)}
        return parts, q_OI.astype(np.float64) * spread.reshape(-1, *spread.shape[1:])

    return quantise


def pack(bits: int, *, zeros: bool = False, shuffled: bool = False) -> Quantiser:
    def quantise(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
        outputs, inputs = W_OI.shape
        half = 2 ** (bits - 1)
        group_I = rng.permutation(np.arange(inputs) // 8) if shuffled else np.arange(inputs) // 8
        q_OI = rng.integers(-half, half, (outputs, inputs))
        scales_OG = rng.uniform(0.01, 0.1, (outputs, inputs // 8)).astype(np.float32)
        parts = {
            "weight_packed": packed(q_OI + half, bits),
            "weight_scale": scales_OG,
            "weight_shape": np.array([outputs, inputs]),
        }
        zero_OG = np.zeros(scales_OG.shape, int)
        if zeros:
            zero_OG = rng.integers(-half, half, scales_OG.shape)
            parts["weight_zero_point"] = packed(zero_OG.T + half, bits).T
        if shuffled:
            parts["weight_g_idx"] = group_I.astype(np.int32)
        return parts, scales_OG.astype(np.float64)[:, group_I] * (q_OI - zero_OG[:, group_I])

    return quantise


def int_quantised(W_OI: np.ndarray, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
    q_OI, scale = rng.integers(-128, 128, W_OI.shape).astype(np.int8), rng.uniform(0.01, 0.1, (len(W_OI), 1))
    return {"weight": q_OI, "weight_scale": scale.astype(np.float32)}, q_OI * scale.astype(np.float32).astype(float)


def compressed(form: str, bits: int, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


CASES: dict[str, tuple[dict[str, Any], Quantiser]] = {
    **{f"gptq {bits}": ({"quant_method": "gptq", "bits": bits, "group_size": 8}, gptq(bits)) for bits in (2, 4, 8)},
    "gptq desc_act": ({"quant_method": "gptq", "bits": 4, "desc_act": True}, gptq(4, shuffled=True)),
    "gptq v2": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}, gptq(4, offset=0)),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}, awq),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, int8),
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, four_bit("nf4", nested=False)),
    "fp4 twice": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, four_bit("fp4", nested=True)),
    "fp8 by tensor": (compressed("float-quantized", 8), fp8(lambda shape: (1,), "weight_scale", None)),
    "fp8 by output": ({"quant_method": "fbgemm_fp8"}, fp8(lambda shape: (shape[0], 1), "weight_scale", None)),
    "fp8 by block": (
        {"quant_method": "fp8", "weight_block_size": [12, 8]},
        fp8(lambda shape: (-(-shape[0] // 12), -(-shape[1] // 8)), "weight_scale_inv", (12, 8)),
    ),
    "packed": (compressed("pack-quantized", 4), pack(4)),
    "packed with zeros": (compressed("pack-quantized", 4), pack(4, zeros=True)),
    "packed, in another order": (compressed("pack-quantized", 8), pack(8, shuffled=True)),
    "integers": (compressed("int-quantized", 8), int_quantised),
}


def state() -> Parts:
    family: Any = FAMILIES["llama"]
    model = jh.init(CONFIG)
    return {name: np.array(value) for name, value in export(model.network, family.table(model.config)).items()}


def tensor(value: np.ndarray) -> torch.Tensor:
    if value.dtype == ml_dtypes.float8_e4m3fn:
        return torch.tensor(value.astype(np.float32)).to(torch.float8_e4m3fn)
    return torch.tensor(np.ascontiguousarray(value))


def written(folder: Path, settings: dict[str, Any] | None, quantiser: Quantiser) -> Parts:
    """Write a model with quantised layers; return the values that are meant."""
    rng, stored, meant = np.random.default_rng(0), {}, {}
    for name, value in state().items():
        if "proj" not in name:
            stored[name] = meant[name] = value
            continue
        parts, meant[name] = quantiser(value, rng)
        stored |= {f"{name.removesuffix('.weight')}.{part}": own for part, own in parts.items()}
    save_file({name: tensor(value) for name, value in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    quantisation = {} if settings is None else {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(CONFIG | quantisation))
    return meant


def check(model: jh.Model, meant: Parts) -> None:
    family: Any = FAMILIES["llama"]
    given = export(model.network, family.table(model.config))
    assert given.keys() == meant.keys()
    for name, value in meant.items():
        assert np.abs(given[name] - value).max() <= 1e-6 * np.abs(value).max(), name
    assert "quantization_config" not in (model.hf_config or {})


@pytest.mark.parametrize("case", CASES)
def test_quantised_weights_are_those_that_were_meant(case: str, tmp_path: Path):
    meant = written(tmp_path, *CASES[case])
    check(jh.load(tmp_path), meant)


def test_a_model_that_was_written_loads_without_its_quantisation(tmp_path: Path):
    meant = written(tmp_path, *CASES["awq"])
    jh.to_hf(jh.load(tmp_path), tmp_path / "whole")
    check(jh.load(tmp_path / "whole"), meant)


def test_older_tools_say_it_in_a_file_of_their_own(tmp_path: Path):
    settings, quantiser = CASES["gptq 4"]
    meant = written(tmp_path, None, quantiser)
    with pytest.raises(ValueError, match=r"no quantization_config .*quantize_config\.json"):
        jh.load(tmp_path)
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 8, "desc_act": False}))
    check(jh.load(tmp_path), meant)
    assert settings["bits"] == 4


def test_biases_of_zero_that_the_model_has_not_are_dropped(tmp_path: Path):
    meant = written(tmp_path, *CASES["gptq 4"])
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.bias"] = torch.zeros(32)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    check(jh.load(tmp_path), meant)
    stored["model.layers.0.mlp.up_proj.bias"] = torch.ones(32)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"not known: model\.layers\.0\.mlp\.up_proj\.bias"):
        jh.load(tmp_path)


def test_quantised_weights_are_adopted_too(tmp_path: Path):
    settings, quantiser = CASES["nf4"]
    meant = written(tmp_path, settings, quantiser)
    check(jh.adopt(CONFIG | {"quantization_config": settings}, load_file(tmp_path / "model.safetensors")), meant)


def test_matrices_of_gpt2_are_stored_the_other_way(tmp_path: Path):
    config = {"model_type": "gpt2", "vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    family: Any = FAMILIES["gpt2"]
    model, name = jh.init(config), "transformer.h.0.mlp.c_fc"
    whole = {key: np.array(value) for key, value in export(model.network, family.table(model.config)).items()}
    for case in ("gptq 4", "int8", "nf4"):
        settings, quantiser = CASES[case]
        plain = {key: value for key, value in whole.items() if key != f"{name}.weight"}
        parts, meant_OI = quantiser(whole[f"{name}.weight"].T, np.random.default_rng(0))
        own = plain | {f"{name}.{part}": value for part, value in parts.items()}
        given = jh.adopt(config | {"quantization_config": settings}, own)
        up = given.network.decoder.blocks.mlp.up.kernel[...][0]
        assert np.abs(up - meant_OI.T).max() <= 1e-6 * np.abs(meant_OI).max()


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("awq", {"quant_method": "quip"}, r"quantised by 'quip'; covered are gptq, .*model\.dequantize\(\)"),
        ("gptq 4", {"bits": 3}, "quantised by gptq: bits=3 is not covered; covered is 2 or 4 or 8"),
        ("gptq 4", {"checkpoint_format": "marlin"}, "checkpoint_format='marlin' is not covered"),
        ("awq", {"version": "gemv"}, "version='gemv' is not covered; covered is gemm"),
        ("packed", {"format": "nvfp4-pack-quantized"}, "format='nvfp4-pack-quantized' is not covered"),
        ("packed", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "format='sparse-24-bitmask' is not covered"),
        ("packed", {"config_groups": {}}, "hold no weight of"),
        ("fp8 by output", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo='NVFP4' is not covered"),
        ("fp8 by block", {"weight_block_size": [4, 4]}, r"a weight of .* and scales of .* do not fit"),
    ],
)
def test_what_is_not_covered_is_refused(case: str, changes: dict[str, Any], message: str, tmp_path: Path):
    settings, quantiser = CASES[case]
    written(tmp_path, settings | changes, quantiser)
    with pytest.raises(ValueError, match=message):
        jh.load(tmp_path)


def test_a_module_that_lacks_a_part_is_named(tmp_path: Path):
    written(tmp_path, *CASES["gptq 4"])
    stored = load_file(tmp_path / "model.safetensors")
    del stored["model.layers.0.mlp.up_proj.scales"]
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.up_proj lacks scales"):
        jh.load(tmp_path)


@pytest.mark.parametrize(
    ("case", "part", "value"),
    [
        ("gptq 4", "g_idx", np.full(16, 99, np.int32)),
        ("nf4", "weight.absmax", np.ones(1, np.float32)),
        ("packed", "weight_scale", np.ones((16, 3), np.float32)),
    ],
)
def test_scales_that_do_not_fit_are_named(case: str, part: str, value: np.ndarray, tmp_path: Path):
    written(tmp_path, *CASES[case])
    stored = load_file(tmp_path / "model.safetensors")
    stored[f"model.layers.0.self_attn.q_proj.{part}"] = torch.tensor(value)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"q_proj\.weight of .* can't be read as a quantised tensor"):
        jh.load(tmp_path)
