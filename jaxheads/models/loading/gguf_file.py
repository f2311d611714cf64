"""A GGUF file (llama.cpp's container): config from its metadata, tensors dequantised when read."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from .checkpoint import Checkpoint, Tensor, files_identity
from .gguf_architectures import ARCHITECTURES, Architecture
from .gguf_rope import rope_scaling, scaling_of_factors
from .gguf_tokenizer import gguf_tokenizer
from .rotary import halves_from_pairs

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CHECKED = ("rope.dimension_count", "attention.value_length", "rope.scale_linear", "expert_count")
FACTORS = "rope_freqs.weight"


def gguf_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        ValueError: for a file that is cut off or no GGUF, whose architecture has no table in `gguf_architectures`, or
            whose metadata its table doesn't translate; the message names the file.
    """
    reader = _open(path)
    metadata = _metadata(path, reader)
    kind = str(metadata.get("general.architecture"))
    if kind not in ARCHITECTURES:
        raise ValueError(f"{path} is of architecture {kind!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    if metadata.get("split.count", 1) > 1:
        raise ValueError(f"{path} is one of {metadata['split.count']} parts: join them with llama-gguf-split")
    architecture = ARCHITECTURES[kind]
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        config = _config(architecture, kind, metadata, stored)
        tensors = _tensors(architecture, config, stored)
        tokenizer, no_tokenizer = gguf_tokenizer(metadata, config["max_position_embeddings"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Checkpoint(config, tensors, tokenizer, no_tokenizer, name, partial(files_identity, [path]))


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path} isn't a GGUF file: it starts with {magic!r}, expected b'GGUF'")
    try:
        return GGUFReader(path)
    except Exception as error:  # where a short file ends, the reader may raise anything
        raise ValueError(
            f"{path} can't be read as GGUF: it is cut off ({path.stat().st_size:,} bytes) or corrupt "
            f"({error}). Fetch it again."
        ) from error


def _metadata(path: Path, reader: GGUFReader) -> dict[str, Any]:
    try:
        return {key: _exact(field.contents()) for key, field in reader.fields.items()}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} has metadata that can't be read: {error}. Fetch it again.") from error


def _exact(value: Any) -> Any:
    """Undo the rounding of a float to 32 bits: 9.99999974e-06 was 1e-05 in config.json."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _config(
    architecture: Architecture, kind: str, metadata: dict[str, Any], stored: dict[str, ReaderTensor]
) -> dict[str, Any]:
    """Translate a file's metadata to a config.json's contents; raise ValueError for keys without a translation."""
    prefix = f"{kind}."
    values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    scaling = {key: values.pop(key) for key in list(values) if key.startswith("rope.scaling.")}
    unknown = sorted(values.keys() - architecture.metadata.keys() - set(CHECKED))
    lists = sorted(key for key in values.keys() & architecture.metadata.keys() if isinstance(values[key], list))
    if unknown or lists:
        raise ValueError(
            f"metadata that the table of {kind!r} doesn't translate: {', '.join(unknown) or 'none'}; given "
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
    _fill(architecture, config, metadata, stored)
    _check(config, values, architecture.grouped)
    if "rope.scale_linear" in values:
        scaling.setdefault("rope.scaling.factor", values["rope.scale_linear"])
    config["rope_scaling"] = rope_scaling({key.rpartition(".")[2]: value for key, value in scaling.items()})
    if FACTORS in stored:
        factors = np.asarray(stored[FACTORS].data, np.float32)
        config["rope_scaling"] = scaling_of_factors(factors, config["rope_theta"]) or config["rope_scaling"]
    return config


def _fill(
    architecture: Architecture, config: dict[str, Any], metadata: dict[str, Any], stored: dict[str, ReaderTensor]
) -> None:
    """Add the fields that a file may lack because llama.cpp has a default for them."""
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", architecture.epsilon)
    missing = [field for field in (*needed, "max_position_embeddings") if field not in config]
    if missing or "token_embd.weight" not in stored:
        raise ValueError(f"the file says nothing of {', '.join(missing) or 'token_embd.weight'}")
    per_head = config["hidden_size"] // config["num_attention_heads"]
    if architecture.grouped:
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
        config.setdefault("head_dim", per_head)
    else:
        turning = metadata.get(f"{metadata['general.architecture']}.rope.dimension_count", per_head)
        config["rotary_pct"] = turning / per_head
    if architecture.wide is not None:
        is_wide = config["num_hidden_layers"] == architecture.wide
        config["query_pre_attn_scalar"] = per_head if is_wide else config["head_dim"]
    config.setdefault("rope_theta", 10000.0)
    config["vocab_size"] = int(stored["token_embd.weight"].shape[-1])
    for token in ("bos", "eos"):
        config[f"{token}_token_id"] = metadata.get(f"tokenizer.ggml.{token}_token_id")
    config["pad_token_id"] = metadata.get("tokenizer.ggml.padding_token_id")


def _check(config: dict[str, Any], values: dict[str, Any], grouped: bool) -> None:
    """Raise ValueError for a head dimension that differs from the config's, and for a mixture of experts."""
    size = config["head_dim"] if grouped else config["hidden_size"] // config["num_attention_heads"]
    for key in ("rope.dimension_count", "attention.value_length") if grouped else ("attention.value_length",):
        if values.get(key, size) != size:
            raise ValueError(f"{key} is {values[key]}, expected the head dimension, {size}")
    if values.get("expert_count", 0):
        raise ValueError(f"expert_count is {values['expert_count']}: mixtures of experts aren't supported")


def _tensors(architecture: Architecture, config: dict[str, Any], stored: dict[str, ReaderTensor]) -> dict[str, Tensor]:
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
        raise ValueError(
            f"{len(unknown)} tensors that Hugging Face's {config['model_type']} hasn't: {', '.join(unknown[:20])}"
        )
    return tensors


def _tensor(tensor: ReaderTensor, rotated_heads: int, shift: int, fused_heads: int) -> Tensor:
    """Describe a tensor of the file; its values are read, converted and dequantised on demand."""
    # GGUF lists dimensions innermost first; the data is in NumPy's order, [out, in].
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind = tensor.tensor_type.name
    return Tensor(shape, PLAIN.get(kind, kind), partial(_read, tensor, shape, rotated_heads, shift, fused_heads))


def _read(tensor: ReaderTensor, shape: tuple[int, ...], rotated_heads: int, shift: int, fused_heads: int) -> np.ndarray:
    """Return a tensor's values, with what llama.cpp's converter changed undone.

    Args:
        rotated_heads: heads whose rows it reordered for rotary positions, or 0.
        shift: the number that it added.
        fused_heads: heads of a fused projection that it reordered, or 0.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if tensor.tensor_type == GGMLQuantizationType.BF16:
        values = np.array(tensor.data).view(ml_dtypes.bfloat16)
    elif tensor.tensor_type.name in PLAIN:
        values = np.array(tensor.data)
    else:
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ValueError(f"{tensor.name} is stored as {tensor.tensor_type.name}: {error}") from error
    values = values.reshape(shape)
    if fused_heads:  # all queries, all keys, all values: back to query, key and value head by head
        by_kind = values.reshape(3, fused_heads, -1, *shape[1:])
        values = np.ascontiguousarray(np.swapaxes(by_kind, 0, 1)).reshape(shape)
    if shift:
        values = values.astype(np.float32) - np.float32(shift)
    return np.ascontiguousarray(halves_from_pairs(values, rotated_heads)) if rotated_heads else values
