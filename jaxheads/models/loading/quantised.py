"""Quantised checkpoints of the hub, dequantised tensor by tensor as they are read.

Covered are GPTQ, AWQ, bitsandbytes, FP8 (of compressed-tensors, FBGEMM and DeepSeek), compressed-tensors' integers, and
GPT-OSS's MXFP4. Values are float32: what the checkpoint says, not what a kernel of half precision makes of it.

Dimension key: I inputs and O outputs of a matrix, G groups of inputs that share a scale, P integers packed in one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor
from .containers import is_present, listed, reading
from .hf_directory import read_json
from .linear_storage import is_conv1d
from .mxfp4 import unpacked

Parts = Mapping[str, Tensor]
Reading = Callable[[], np.ndarray]

_BESIDE = ("quantize_config.json", "quant_config.json")
"""Files in which older tools write what config.json's quantization_config says."""

_UNUSED = re.compile(
    r".*\.(input_scale|input_scale_ub|output_scale|[qkv]_scale|input_zero_point|input_global_scale|weight_format|"
    r"activation_scale)"
)
"""Scales of activations, which full precision does not need."""

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of the value at each nibble of AWQ's integers."""

_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "dense",
    "mixed-precision",
)
"""Formats of compressed-tensors."""


def dequantised(checkpoint: Checkpoint, directory: Path | None = None) -> Checkpoint:
    """Return a checkpoint whose tensors are those of the model before it was quantised; others as they are.

    Args:
        directory: where files of older tools may lie that say how the model was quantised.

    Raises:
        ValueError: for a method that is not covered, or tensors that are incomplete or do not fit each other.
    """
    settings = _settings(checkpoint, directory)
    if settings is None:
        return checkpoint
    method = str(settings.get("quant_method"))
    if method == "mxfp4":
        return unpacked(checkpoint)
    if method not in _METHODS:
        raise ValueError(
            f"{checkpoint.name} is quantised by {shown(method)}; covered are {', '.join(_METHODS)}, mxfp4. Save it in "
            "full precision where transformers reads it: model.dequantize(), then model.save_pretrained(…)"
        )
    try:
        tensors = _METHODS[method](dict(checkpoint.tensors), settings, str(checkpoint.config.get("model_type")))
    except ValueError as error:
        raise ValueError(f"{checkpoint.name}, quantised by {method}: {error}") from error
    tensors = {
        name: tensor if tensor is checkpoint.tensors.get(name) else _guarded(f"{name} of {checkpoint.name}", tensor)
        for name, tensor in tensors.items()
        if not _UNUSED.fullmatch(name)
    }
    if method in ("gptq", "awq"):
        tensors = _without_zero_biases(tensors, checkpoint)
    names = ("quantization_config", "compression_config")
    config = {name: value for name, value in checkpoint.config.items() if name not in names}
    return replace(checkpoint, config=config, tensors=tensors)


def _without_zero_biases(tensors: dict[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Drop biases of 0 that older tools wrote for matrices which have none in the model."""
    config = checkpoint.config
    if config.get("model_type") not in ("llama", "mistral") or config.get("attention_bias") or config.get("mlp_bias"):
        return tensors
    matrices = {name.removesuffix(".qweight") for name in checkpoint.tensors if name.endswith(".qweight")}
    biases = [name for name in tensors if name.endswith(".bias") and name.removesuffix(".bias") in matrices]
    zero = {name for name in biases if not tensors[name].read().any()}
    return {name: tensor for name, tensor in tensors.items() if name not in zero}


def _guarded(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor whose reading ends in ValueError for scales or groups that do not fit its values."""

    def read() -> np.ndarray:
        with reading(name, "a quantised tensor"):
            values = tensor.read()
            if values.shape != tensor.shape:
                raise ValueError(f"it has the shape {values.shape}, expected {tensor.shape}")
            return values

    return replace(tensor, read=read)


def _settings(checkpoint: Checkpoint, directory: Path | None) -> dict[str, Any] | None:
    """Return what is said of the quantisation; None for a model that is not quantised."""
    for name in ("quantization_config", "compression_config"):
        stated = checkpoint.config.get(name)
        if isinstance(stated, Mapping) and stated:
            return {"quant_method": "compressed-tensors" if name == "compression_config" else None, **stated}
    if not any(name.endswith(".qweight") for name in checkpoint.tensors):
        return None
    for name in _BESIDE if directory is not None else ():
        if directory is not None and is_present(directory / name):
            stated = read_json(directory / name)
            guess = "awq" if name == "quant_config.json" or "w_bit" in stated else "gptq"
            renamed = {"w_bit": "bits", "q_group_size": "group_size"}
            return {"quant_method": guess, **{renamed.get(key, key): value for key, value in stated.items()}}
    raise ValueError(
        f"{checkpoint.name} has packed weights (.qweight) and no quantization_config that says how: fetch "
        f"{' or '.join(_BESIDE)}, or write it into config.json"
    )


def _modules(tensors: dict[str, Tensor], first: str, needed: str = "", others: str = "") -> Iterator[tuple[str, Parts]]:
    """Take the tensors of each module that has a tensor called `first`, and yield the module's name with its tensors.

    Raises:
        ValueError: for a module that lacks one of those needed.
    """
    for name in [name for name in tensors if name.endswith(f".{first}")]:
        stem = name.removesuffix(f".{first}")
        wanted = [first, *needed.split(), *others.split()]
        parts = {part: tensors.pop(f"{stem}.{part}") for part in wanted if f"{stem}.{part}" in tensors}
        if missing := [part for part in needed.split() if part not in parts]:
            raise ValueError(f"{stem} lacks {', '.join(missing)} (it has {listed(sorted(parts))})")
        yield stem, parts


def _unpacked(packed: np.ndarray, bits: int, axis: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the unsigned integers packed in 32-bit ones along an axis, the lowest bits first.

    Args:
        order: the place among its neighbours of the value at each position, where that is another than its own.
    """
    words = np.moveaxis(packed, axis, -1).astype(np.uint32)
    values = (words[..., None] >> np.arange(0, 32, bits, dtype=np.uint32)) & np.uint32(2**bits - 1)
    if order is not None:
        values = values[..., np.argsort(order)]
    return np.moveaxis(values.reshape(*words.shape[:-1], -1), -1, axis)


def _one_of(settings: Mapping[str, Any], name: str, values: tuple[Any, ...], default: Any) -> Any:
    value = settings.get(name, default)
    if value not in values:
        raise ValueError(f"{name}={shown(value)} is not covered; covered is {' or '.join(map(str, values))}")
    return value


def _gptq(tensors: dict[str, Tensor], settings: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """GPTQ (Frantar et al. 2022): `W[i,o] = scale[g(i),o] * (q - zero)`; the first format stores `zero - 1`."""
    bits = _one_of(settings, "bits", (2, 4, 8), 4)
    form = _one_of(settings, "checkpoint_format", ("gptq", "gptq_v2", None), "gptq")
    for stem, parts in _modules(tensors, "qweight", "qzeros scales", "g_idx"):
        packed, scales = parts["qweight"].shape, parts["scales"].shape
        inputs, outputs = packed[0] * 32 // bits, packed[1]
        if len(scales) != 2 or scales[1] != outputs or (inputs % scales[0] and "g_idx" not in parts):
            raise ValueError(f"{stem}: qweight {packed} and scales {scales} do not fit at {bits} bits")
        read = partial(_read_gptq, parts, bits, 0 if form == "gptq_v2" else 1)
        tensors[f"{stem}.weight"] = _weight(read, inputs, outputs, is_conv1d(family, f"{stem}.weight"))
    return tensors


def _weight(read_IO: Reading, inputs: int, outputs: int, as_stored: bool) -> Tensor:
    """Return the tensor of a matrix that is read `[I,O]`: `[O,I]`, unless the checkpoint's own is `[I,O]`."""
    if as_stored:
        return Tensor((inputs, outputs), "float32", read_IO)
    return Tensor((outputs, inputs), "float32", lambda: read_IO().T)


def _read_gptq(parts: Parts, bits: int, offset: int) -> np.ndarray:
    q_IO = _unpacked(parts["qweight"].read(), bits, 0)
    scales_GO = parts["scales"].read().astype(np.float32)
    # The sum wraps within its bits: a zero of 0 is stored as their largest number.
    zeros_GO = (_unpacked(parts["qzeros"].read(), bits, 1) + np.uint32(offset)) & np.uint32(2**bits - 1)
    groups, inputs = len(scales_GO), len(q_IO)
    group_I = parts["g_idx"].read() if "g_idx" in parts else np.arange(inputs) // (inputs // groups)
    zeros_GO = zeros_GO[:, : scales_GO.shape[1]].astype(np.float32)
    return scales_GO[group_I] * (q_IO.astype(np.float32) - zeros_GO[group_I])


def _awq(tensors: dict[str, Tensor], settings: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """AWQ (Lin et al. 2023) as its GEMM kernels pack it: `W[i,o] = scale[g(i),o] * (q - zero)`, columns interleaved."""
    _one_of(settings, "bits", (4,), 4)
    _one_of({"version": str(settings.get("version", "gemm")).lower()}, "version", ("gemm",), "gemm")
    _one_of(settings, "zero_point", (True,), True)
    for stem, parts in _modules(tensors, "qweight", "qzeros scales"):
        packed, scales = parts["qweight"].shape, parts["scales"].shape
        if len(scales) != 2 or scales[1] != 8 * packed[1] or packed[0] % scales[0]:
            raise ValueError(f"{stem}: qweight {packed} and scales {scales} do not fit")
        read = partial(_read_awq, parts)
        tensors[f"{stem}.weight"] = _weight(read, packed[0], scales[1], is_conv1d(family, f"{stem}.weight"))
    return tensors


def _read_awq(parts: Parts) -> np.ndarray:
    q_IO, zeros_GO = (_unpacked(parts[name].read(), 4, 1, _AWQ_ORDER) for name in ("qweight", "qzeros"))
    scales_GO = parts["scales"].read().astype(np.float32)
    group_I = np.arange(len(q_IO)) // (len(q_IO) // len(scales_GO))
    return scales_GO[group_I] * (q_IO.astype(np.float32) - zeros_GO[group_I].astype(np.float32))


def _bitsandbytes(tensors: dict[str, Tensor], settings: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """LLM.int8 (Dettmers et al. 2022) and the 4-bit codes NF4 and FP4 (QLoRA, Dettmers et al. 2023)."""
    del settings
    for stem, parts in _modules(tensors, "SCB", "weight", "weight_format"):
        name, (outputs, inputs) = f"{stem}.weight", parts["weight"].shape
        read = partial(_read_int8, parts["weight"], parts["SCB"])
        tensors[name] = _turned_back(family, name, Tensor((outputs, inputs), "float32", read))
    for kind in ("nf4", "fp4"):
        state = f"quant_state.bitsandbytes__{kind}"
        for name, parts in _modules(tensors, state, "absmax quant_map", "nested_absmax nested_quant_map"):
            about = json.loads(parts[state].read().tobytes())
            shape = tuple(about["shape"])
            packed = tensors.get(name)
            if packed is None or 2 * int(np.prod(packed.shape)) < int(np.prod(shape)):
                raise ValueError(f"{name} has no packed weight of {shape}")
            read = partial(_read_4bit, packed, parts, about)
            tensors[name] = _turned_back(family, name, Tensor(shape, "float32", read))
    return tensors


def _turned_back(family: str, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor as its family stores it: bitsandbytes holds all matrices `[O,I]`."""
    if not is_conv1d(family, name):
        return tensor
    return Tensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T)


def _read_int8(weight: Tensor, scale: Tensor) -> np.ndarray:
    return weight.read().astype(np.float32) * (scale.read().astype(np.float32).reshape(-1, 1) / np.float32(127))


def _read_4bit(packed: Tensor, parts: Parts, about: Mapping[str, Any]) -> np.ndarray:
    codes = parts["quant_map"].read().astype(np.float32)
    scales = parts["absmax"].read().reshape(-1)
    if "nested_absmax" in parts:
        outer = parts["nested_absmax"].read().astype(np.float32).reshape(-1)
        blocks = np.arange(len(scales)) // about["nested_blocksize"]
        scales = parts["nested_quant_map"].read()[scales] * outer[blocks] + np.float32(about["nested_offset"])
    count, block = int(np.prod(about["shape"])), about["blocksize"]
    bytes_ = packed.read().reshape(-1).view(np.uint8)
    values = codes[np.stack([bytes_ >> 4, bytes_ & 15], axis=1).reshape(-1)[:count]]
    return (values * scales.astype(np.float32)[np.arange(count) // block]).reshape(about["shape"])


def _fp8(tensors: dict[str, Tensor], settings: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """Eight-bit floats with a scale for the tensor, each output, or each block (DeepSeek-V3's `weight_scale_inv`)."""
    del family
    _one_of(settings, "quant_algo", ("FP8", None), None)
    block = settings.get("weight_block_size")
    for suffix in ("weight_scale_inv", "weight_scale"):
        for stem, parts in _modules(tensors, suffix, "weight", "weight_zero_point"):
            weight, scale = parts["weight"], parts[suffix]
            _check_scale(stem, weight.shape, scale.shape, block)
            read = partial(_read_scaled, weight, scale, block, parts.get("weight_zero_point"))
            tensors[f"{stem}.weight"] = Tensor(weight.shape, "float32", read)
    return tensors


def _check_scale(stem: str, weight: tuple[int, ...], scale: tuple[int, ...], block: Any) -> None:
    whole = int(np.prod(scale)) == 1 or scale in ((weight[0],), (weight[0], 1))
    if whole:
        return
    blocks = () if block is None else tuple(-(-size // step) for size, step in zip(weight, block, strict=False))
    if scale != blocks and (block is not None or len(scale) != 2 or scale[0] != weight[0] or weight[1] % scale[1]):
        raise ValueError(f"{stem}: a weight of {weight} and scales of {scale} do not fit; blocks are {shown(block)}")


def _read_scaled(weight: Tensor, scale: Tensor, block: Any, zero: Tensor | None) -> np.ndarray:
    values, scales = weight.read().astype(np.float32), scale.read().astype(np.float32)
    if zero is not None:
        values = values - _spread(zero.read().astype(np.float32), values.shape, block)
    return values * _spread(scales, values.shape, block)


def _spread(scales: np.ndarray, shape: tuple[int, ...], block: Any) -> np.ndarray:
    """Return scales of blocks, groups, outputs or the tensor so that they multiply a matrix of this shape."""
    if scales.size == 1:
        return scales.reshape(1, 1)
    if scales.size == shape[0]:
        return scales.reshape(-1, 1)
    rows, columns = block if block is not None else (1, shape[1] // scales.shape[1])
    return scales.repeat(rows, axis=0)[: shape[0]].repeat(columns, axis=1)[:, : shape[1]]


def _compressed(tensors: dict[str, Tensor], settings: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """compressed-tensors: packed integers, or integers and floats of eight bits with their scales."""
    groups = [group for group in (settings.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    for stated in (settings, *groups):
        _one_of(stated, "format", (*_FORMATS, None), None)
    _one_of(settings.get("sparsity_config") or {}, "format", ("dense", None), None)
    _one_of({"transform_config": settings.get("transform_config") or None}, "transform_config", (None,), None)
    weights = [group.get("weights") or {} for group in groups]
    widths = sorted({weight["num_bits"] for weight in weights if isinstance(weight.get("num_bits"), int)})
    for stem, parts in _modules(
        tensors, "weight_packed", "weight_scale weight_shape", "weight_zero_point weight_g_idx"
    ):
        shape = tuple(int(size) for size in parts["weight_shape"].read())
        packed = parts["weight_packed"].shape
        fitting = [bits for bits in widths if 32 % bits == 0 and packed == (shape[0], -(-shape[1] * bits // 32))]
        if not fitting:
            raise ValueError(f"{stem}: {packed} integers hold no weight of {shape} at {shown(widths)} bits")
        read = partial(_read_packed, parts, shape, fitting[0])
        tensors[f"{stem}.weight"] = Tensor(shape, "float32", read)
    blocks = [weight.get("block_structure") for weight in weights if weight.get("strategy") == "block"]
    return _fp8(tensors, {"weight_block_size": blocks[0] if blocks else None}, family)


def _read_packed(parts: Parts, shape: tuple[int, ...], bits: int) -> np.ndarray:
    half = 2 ** (bits - 1)
    values_OI = _unpacked(parts["weight_packed"].read(), bits, 1)[:, : shape[1]].astype(np.float32) - half
    scales_OG = parts["weight_scale"].read().astype(np.float32).reshape(shape[0], -1)
    groups = scales_OG.shape[1]
    if shape[1] % groups:
        raise ValueError(f"{groups} groups do not divide {shape[1]} inputs")
    group_I = np.arange(shape[1]) // (shape[1] // groups)
    if "weight_g_idx" in parts and (given := parts["weight_g_idx"].read()).min() >= 0:
        group_I = given
    if (zero := parts.get("weight_zero_point")) is not None:
        stored = zero.read()
        if stored.dtype == np.int32:
            stored = _unpacked(stored, bits, 0)[: shape[0]].astype(np.float32) - half
        values_OI = values_OI - stored.astype(np.float32).reshape(shape[0], -1)[:, group_I]
    return values_OI * scales_OG[:, group_I]


_METHODS: Mapping[str, Callable[[dict[str, Tensor], Mapping[str, Any], str], dict[str, Tensor]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _fp8,
    "compressed-tensors": _compressed,
}
