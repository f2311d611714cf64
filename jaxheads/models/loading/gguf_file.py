"""A GGUF file (llama.cpp's container): config from its metadata, tensors dequantised when read."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .config_fields import check_fields, is_whole
from .containers import listed, reading
from .gguf_architectures import ARCHITECTURES, Architecture
from .gguf_contents import GgufTensor, gguf_contents
from .gguf_rope import rope_scaling, scaling_of_factors
from .gguf_tokenizer import gguf_tokenizer
from .rotary import halves_from_pairs

PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CHECKED = ("rope.dimension_count", "attention.value_length", "rope.scale_linear", "expert_count")
FACTORS = "rope_freqs.weight"


def gguf_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        ValueError: for a file that is cut off or no GGUF, whose architecture has no table in `gguf_architectures`, or
            whose metadata its table doesn't translate; the message names the file.
    """
    contents = gguf_contents(path)
    metadata, stored = contents.metadata, contents.tensors
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"{path} is of architecture {shown(kind)}; known are {', '.join(sorted(ARCHITECTURES))}")
    if metadata.get("split.count", 1) not in (0, 1):
        raise ValueError(f"{path} is one of {shown(metadata['split.count'])} parts: join them with llama-gguf-split")
    architecture = ARCHITECTURES[kind]
    try:
        config = _config(architecture, kind, metadata, stored)
        tensors = _tensors(architecture, config, stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tokenizer = partial(_tokenizer, path, metadata, config["max_position_embeddings"])
    return Checkpoint(config, tensors, tokenizer, name, partial(files_identity, [path]))


def _tokenizer(path: Path, metadata: dict[str, Any], max_length: int) -> tuple[Any, str]:
    try:
        return gguf_tokenizer(metadata, max_length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Fetch it again.") from error


def _config(
    architecture: Architecture, kind: str, metadata: dict[str, Any], stored: dict[str, GgufTensor]
) -> dict[str, Any]:
    """Translate a file's metadata to a config.json's contents; raise ValueError for keys without a translation."""
    prefix = f"{kind}."
    values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    scaling = {key: values.pop(key) for key in list(values) if key.startswith("rope.scaling.")}
    unknown = sorted(values.keys() - architecture.metadata.keys() - set(CHECKED))
    lists = sorted(key for key in values.keys() & architecture.metadata.keys() if isinstance(values[key], list))
    if unknown or lists:
        raise ValueError(
            f"metadata that the table of {kind!r} doesn't translate: {listed(unknown) or 'none'}; given "
            f"for each layer where one number is expected: {', '.join(lists) or 'none'}"
        )
    config = {
        **architecture.constants,
        **{field: values[key] for key, field in architecture.metadata.items() if key in values},
    }
    config |= {field: tensor in stored for field, tensor in architecture.biases.items()}
    for key, fields in architecture.absent.items():
        config |= {} if key in values else fields
    config["tie_word_embeddings"] = "output.weight" not in stored
    check_fields(config)
    _fill(architecture, config, metadata, stored)
    _check(config, values, architecture.grouped)
    if "rope.scale_linear" in values:
        scaling.setdefault("rope.scaling.factor", values["rope.scale_linear"])
    config["rope_scaling"] = rope_scaling({key.rpartition(".")[2]: value for key, value in scaling.items()})
    if FACTORS in stored:
        if stored[FACTORS].kind != "F32":
            raise ValueError(f"{FACTORS} is stored as {stored[FACTORS].kind}, expected F32")
        factors = stored[FACTORS].read().view(np.float32)
        config["rope_scaling"] = scaling_of_factors(factors, config["rope_theta"]) or config["rope_scaling"]
    return config


def _fill(
    architecture: Architecture, config: dict[str, Any], metadata: dict[str, Any], stored: dict[str, GgufTensor]
) -> None:
    """Add the fields that a file may lack because llama.cpp has a default for them."""
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", architecture.epsilon)
    missing = [field for field in (*needed, "max_position_embeddings") if field not in config]
    if missing or "token_embd.weight" not in stored:
        raise ValueError(f"the file says nothing of {', '.join(missing) or 'token_embd.weight'}")
    if len(stored["token_embd.weight"].shape) != 2:
        raise ValueError(f"token_embd.weight has shape {stored['token_embd.weight'].shape}, expected two axes")
    per_head = config["hidden_size"] // config["num_attention_heads"]
    if architecture.grouped:
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
        config.setdefault("head_dim", per_head)
    else:
        turning = metadata.get(f"{metadata['general.architecture']}.rope.dimension_count", per_head)
        if not is_whole(turning, 1):
            raise ValueError(f"rope.dimension_count is {shown(turning)}, expected a whole number")
        config["rotary_pct"] = turning / per_head
    if architecture.wide is not None:
        is_wide = config["num_hidden_layers"] == architecture.wide
        config["query_pre_attn_scalar"] = per_head if is_wide else config["head_dim"]
    config.setdefault("rope_theta", 10000.0)
    config["vocab_size"] = stored["token_embd.weight"].shape[0]
    for token in ("bos", "eos"):
        config[f"{token}_token_id"] = metadata.get(f"tokenizer.ggml.{token}_token_id")
    config["pad_token_id"] = metadata.get("tokenizer.ggml.padding_token_id")


def _check(config: dict[str, Any], values: dict[str, Any], grouped: bool) -> None:
    """Raise ValueError for a head dimension that differs from the config's, and for a mixture of experts."""
    size = config["head_dim"] if grouped else config["hidden_size"] // config["num_attention_heads"]
    for key in ("rope.dimension_count", "attention.value_length") if grouped else ("attention.value_length",):
        if values.get(key, size) != size:
            raise ValueError(f"{key} is {shown(values[key])}, expected the head dimension, {size}")
    if values.get("expert_count", 0):
        raise ValueError(f"expert_count is {shown(values['expert_count'])}: mixtures of experts aren't supported")


def _tensors(architecture: Architecture, config: dict[str, Any], stored: dict[str, GgufTensor]) -> dict[str, Tensor]:
    """Rename the tensors of a file to Hugging Face's; raise ValueError for those without a name there."""
    tensors, unknown = {}, []
    for name, tensor in stored.items():
        stem, _, suffix = name.rpartition(".")
        layer = re.match(r"blk\.(\d+)\.", stem)
        pattern = stem.replace(layer[0], "blk.{n}.", 1) if layer else stem
        target = (architecture.layer_tensors if layer else architecture.tensors).get(pattern)
        if name == FACTORS:
            continue
        if target is None or suffix not in ("weight", "bias"):
            unknown.append(name)
            continue
        heads = config.get(architecture.rotated.get(pattern, ""), 0)
        shift = int(pattern in architecture.shifted)
        fused = config["num_attention_heads"] if pattern in architecture.interleaved else 0
        tensors[f"{target.format(n=layer[1] if layer else '')}.{suffix}"] = _tensor(tensor, heads, shift, fused)
    if unknown:
        raise ValueError(f"{len(unknown)} tensors that Hugging Face's {config['model_type']} hasn't: {listed(unknown)}")
    return tensors


def _tensor(tensor: GgufTensor, rotated_heads: int, shift: int, fused_heads: int) -> Tensor:
    """Describe a tensor of the file; its values are read, converted and dequantised on demand."""
    for heads in (rotated_heads, fused_heads):
        if heads and (not tensor.shape or tensor.shape[0] % (2 * heads if rotated_heads else 3 * heads)):
            raise ValueError(f"{tensor.name} of shape {tensor.shape} can't be the rows of {heads} heads")
    read = partial(_read, tensor, rotated_heads, shift, fused_heads)
    return Tensor(tensor.shape, PLAIN.get(tensor.kind, tensor.kind), read)


def _read(tensor: GgufTensor, rotated_heads: int, shift: int, fused_heads: int) -> np.ndarray:
    """Return a tensor's values, with what llama.cpp's converter changed undone.

    Args:
        rotated_heads: heads whose rows it reordered for rotary positions, or 0.
        shift: the number that it added.
        fused_heads: heads of a fused projection that it reordered, or 0.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    content, shape = tensor.read(), tensor.shape
    if tensor.kind in PLAIN:
        values = content.view(ml_dtypes.bfloat16 if tensor.kind == "BF16" else PLAIN[tensor.kind]).reshape(shape)
    else:
        try:
            # Scales of 16 bits may be infinite; the values are then refused as such.
            with reading(tensor.path, "GGUF"), np.errstate(all="ignore"):
                values = dequantize(content, GGMLQuantizationType[tensor.kind]).reshape(shape)
        except NotImplementedError as error:
            raise ValueError(f"{tensor.name} is stored as {tensor.kind}: {error}") from error
    if fused_heads:  # all queries, all keys, all values: back to query, key and value head by head
        by_kind = values.reshape(3, fused_heads, -1, *shape[1:])
        values = np.ascontiguousarray(np.swapaxes(by_kind, 0, 1)).reshape(shape)
    if shift:
        values = values.astype(np.float32) - np.float32(shift)
    return np.ascontiguousarray(halves_from_pairs(values, rotated_heads)) if rotated_heads else values
