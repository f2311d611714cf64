"""Directories in Hugging Face's layout: config.json, weights in a file or in shards, tokenizer."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, Tensor, files_identity
from .hf_tokenizer import directory_tokenizer
from .pickles import pickle_tensors
from .safetensors_file import safetensors_tensors

Reader = Callable[[Path], dict[str, Tensor]]
CONTAINERS: dict[str, Reader] = {
    "model.safetensors": safetensors_tensors,
    "pytorch_model.bin": pickle_tensors,
}
"""Readers by the name of the weight file, in order of preference; NAME.index.json lists shards."""


def directory_checkpoint(directory: Path, *, name: str, identity: Callable[[], str] | None = None) -> Checkpoint:
    """Open a Hugging Face directory; `identity` defaults to the hash of its weight files.

    Raises:
        FileNotFoundError: where config.json, the weights or a shard are missing.
        ValueError: for a file that can't be read.
    """
    config = read_json(directory / "config.json")
    tensors, paths = _weights(directory)
    tokenizer, no_tokenizer = directory_tokenizer(directory)
    identity = identity or partial(files_identity, paths)
    return Checkpoint(config, tensors, tokenizer, no_tokenizer, name, identity, read_preprocessor(directory))


def read_preprocessor(directory: Path) -> dict[str, Any] | None:
    """Read the settings that turn images or audio into the model's input; None where there are none.

    They are in preprocessor_config.json, or in the processor_config.json that transformers 5 writes for models of
    several inputs.
    """
    if (directory / "preprocessor_config.json").is_file():
        return read_json(directory / "preprocessor_config.json")
    if (directory / "processor_config.json").is_file():
        return read_json(directory / "processor_config.json").get("image_processor")
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: where there is no such file; the message lists its neighbours.
        ValueError: for a file that is no JSON object; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        neighbours = ", ".join(sorted(item.name for item in path.parent.iterdir())[:20]) or "nothing"
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}: not a Hugging Face model directory. It holds {neighbours}."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def _weights(directory: Path) -> tuple[Mapping[str, Tensor], list[Path]]:
    """List the tensors of a directory and the files that hold them."""
    for name, reader in CONTAINERS.items():
        if (directory / name).is_file():
            return reader(directory / name), [directory / name]
        if (directory / f"{name}.index.json").is_file():
            return _sharded(directory / f"{name}.index.json", reader)
    files = ", ".join(sorted(item.name for item in directory.iterdir())[:20])
    raise FileNotFoundError(
        f"{directory} has no weights: expected {' or '.join(CONTAINERS)}, or one of them in shards with "
        f"NAME.index.json. It holds {files}."
    )


def _sharded(index: Path, reader: Reader) -> tuple[dict[str, Tensor], list[Path]]:
    """List the tensors that an index promises, each in its shard, and the shards."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files: it isn't the index of a checkpoint")
    shards = sorted(set(shard_of.values()))
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise ValueError(f"{index} names files that don't lie beside it: {', '.join(outside)}")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing)}. Fetch them too."
        )
    tensors = {shard: reader(index.parent / shard) for shard in shards}
    absent = [f"{name} ({shard})" for name, shard in shard_of.items() if name not in tensors[shard]]
    if absent:
        raise ValueError(
            f"{index} promises tensors which their shard lacks: {', '.join(absent)}. Fetch the shards and "
            "the index again: they're not of one version."
        )
    return {name: tensors[shard][name] for name, shard in shard_of.items()}, [index.parent / shard for shard in shards]
