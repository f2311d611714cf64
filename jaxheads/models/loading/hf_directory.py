"""Directories in Hugging Face's layout: config.json, weights in a file or in shards, tokenizer."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .containers import file_size, is_present, listed, reason
from .hf_tokenizer import directory_tokenizer
from .pickles import pickle_tensors
from .safetensors_file import safetensors_tensors
from .weight_files import CONTAINERS, PICKLE, SAFETENSORS, nothing_fits, weight_files

Reader = Callable[[Path], dict[str, Tensor]]
_READERS: dict[str, Reader] = {SAFETENSORS: safetensors_tensors, PICKLE: pickle_tensors}

_LOG = logging.getLogger(__name__)


def directory_checkpoint(directory: Path, *, name: str, identity: Callable[[], str] | None = None) -> Checkpoint:
    """Open a Hugging Face directory; `identity` defaults to the hash of its weight files.

    Raises:
        FileNotFoundError: where config.json, the weights or a shard are missing.
        ValueError: for a file that can't be read.
    """
    config = read_json(directory / "config.json")
    tensors, paths = _weights(directory)
    tokenizer = partial(directory_tokenizer, directory)
    identity = identity or partial(files_identity, paths)
    preprocessor = read_preprocessor(directory)
    return Checkpoint(config, tensors, tokenizer, name, identity, preprocessor, tokenizer)


def read_preprocessor(directory: Path) -> dict[str, Any] | None:
    """Read the settings that turn images or audio into the model's input; None where there are none.

    They are in preprocessor_config.json, or in the processor_config.json that transformers 5 writes for models of
    several inputs.
    """
    if is_present(directory / "preprocessor_config.json"):
        return read_json(directory / "preprocessor_config.json")
    if not is_present(directory / "processor_config.json"):
        return None
    settings = read_json(directory / "processor_config.json").get("image_processor")
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"{directory / 'processor_config.json'} has an image_processor that is no object")
    return settings


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: where there is no such file; the message lists its neighbours.
        ValueError: for a file that is no JSON object, or has a key twice in an object; the message names it.
        OSError: for a file that can't be read.
    """
    try:
        file_size(path)
        content = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_object)
    except FileNotFoundError as error:
        neighbours = ", ".join(sorted(item.name for item in path.parent.iterdir())[:20]) or "nothing"
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}: not a Hugging Face model directory. It holds {neighbours}."
        ) from error
    except (ValueError, RecursionError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} isn't valid JSON: {reason(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"it has {shown(key)} twice in an object")
        content[key] = value
    return content


def _weights(directory: Path) -> tuple[Mapping[str, Tensor], list[Path]]:
    """List the tensors of a directory and the files that hold them."""
    names = [item.name for item in directory.iterdir()]
    weights = weight_files(names)
    if weights is None:
        raise nothing_fits(str(directory), names)
    others = [name for name in CONTAINERS if name in names and name not in weights.files]
    if others or weights.files != (weights.container,):
        chosen = weights.index or listed(weights.files)
        besides = f", not from {', '.join(others)}" if others else ""
        _LOG.info("%s: the weights are read from %s%s", directory, chosen, besides)
    reader = _READERS[weights.container]
    if weights.index is not None:
        return _sharded(directory / weights.index, reader)
    paths = [directory / name for name in weights.files]
    return _joined({path: reader(path) for path in paths}), paths


def _joined(shards: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the tensors of shards; raise ValueError for one that two of them have."""
    tensors: dict[str, Tensor] = {}
    for path, held in shards.items():
        if twice := sorted(tensors.keys() & held.keys()):
            raise ValueError(f"{path} has tensors that another shard has too: {listed(twice)}")
        tensors |= held
    return tensors


def _sharded(index: Path, reader: Reader) -> tuple[dict[str, Tensor], list[Path]]:
    """List the tensors that an index promises, each in its shard, and the shards."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files: it isn't the index of a checkpoint")
    shards = sorted(set(shard_of.values()))
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise ValueError(f"{index} names files that don't lie beside it: {listed(outside)}")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {listed(missing)}. Fetch them too."
        )
    tensors = {shard: reader(index.parent / shard) for shard in shards}
    absent = [f"{name} ({shard})" for name, shard in shard_of.items() if name not in tensors[shard]]
    if absent:
        raise ValueError(
            f"{index} promises tensors which their shard lacks: {listed(absent)}. Fetch the shards and "
            "the index again: they're not of one version."
        )
    return {name: tensors[shard][name] for name, shard in shard_of.items()}, [index.parent / shard for shard in shards]
