"""Directories that `to_orbax` writes: tensors under Hugging Face's names, config.json, the tokenizer."""

import hashlib
import json
import math
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, Tensor
from .containers import file_size, reading
from .hf_directory import read_json, read_preprocessor
from .hf_tokenizer import directory_tokenizer

WEIGHTS = "weights.orbax"
"""Name of the folder that holds the tensors."""

KIND, REMEDY = "an orbax checkpoint", "Write it again."
EXPANDED = 64
"""How many values a byte of the folder may stand for: weights hardly shrink when they are compressed."""


def is_orbax_directory(directory: Path) -> bool:
    """Whether `to_orbax` wrote this directory."""
    return (directory / WEIGHTS).is_dir()


def orbax_checkpoint(directory: Path, *, name: str) -> Checkpoint:
    """Open a directory that `to_orbax` wrote; each tensor is read on demand.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or can't be read.
    """
    import orbax.checkpoint as ocp  # a second to import

    config, weights = read_json(directory / "config.json"), (directory / WEIGHTS).resolve()
    size = _size(weights)
    with reading(weights, KIND, REMEDY):
        with ocp.PyTreeCheckpointer() as checkpointer:
            described = checkpointer.metadata(weights).item_metadata.tree
        tensors = {
            key: Tensor(tuple(stored.shape), str(np.dtype(stored.dtype)), partial(_read, weights, key))
            for key, stored in described.items()
        }
        # A tensor is read in chunks, which may be larger than it.
        chunks = (stored.storage.chunk_shape if stored.storage else None for stored in described.values())
        shapes = [*(tensor.shape for tensor in tensors.values()), *(chunk for chunk in chunks if chunk)]
        values = sum(map(math.prod, shapes))
        if values > EXPANDED * size:
            raise ValueError(f"its files of {size:,} bytes claim to hold {values:,} values")
    tokenizer = partial(directory_tokenizer, directory)
    identity, preprocessor = cache(partial(_identity, tensors, config)), read_preprocessor(directory)
    return Checkpoint(config, tensors, tokenizer, name, identity, preprocessor, tokenizer)


def _size(weights: Path) -> int:
    """Return the bytes of all files of the folder; raise ValueError for a pipe or a device."""
    return sum(file_size(Path(folder, name)) for folder, _, names in os.walk(weights) for name in names)


def _read(weights: Path, key: str) -> np.ndarray:
    import orbax.checkpoint as ocp

    with reading(weights, KIND, REMEDY), ocp.PyTreeCheckpointer() as checkpointer:
        arguments = ocp.args.PyTreeRestore(
            item={key: 0}, restore_args={key: ocp.RestoreArgs(restore_type=np.ndarray)}, partial_restore=True
        )
        return np.asarray(checkpointer.restore(weights, args=arguments)[key])


def _identity(tensors: dict[str, Tensor], config: dict[str, Any]) -> str:
    """Hash config and tensors: an orbax directory spreads them over many files."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].read().tobytes())
    return f"sha256:{digest.hexdigest()}"
