"""An orbax directory as `to_orbax` writes it: the tensors under Hugging Face's names, config.json, the tokenizer."""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from .checkpoint import Checkpoint, Tensor
from .hf_directory import read_json, read_preprocessor
from .hf_tokenizer import directory_tokenizer

WEIGHTS = "weights.orbax"
"""The folder of the tensors in such a directory."""


def is_orbax_directory(directory: Path) -> bool:
    """Whether `to_orbax` wrote there."""
    return (directory / WEIGHTS).is_dir()


def orbax_checkpoint(directory: Path, *, name: str) -> Checkpoint:
    """Open such a directory; tensors are read one by one.

    Raises FileNotFoundError or ValueError where a part is missing or can't be read.
    """
    config, weights = read_json(directory / "config.json"), (directory / WEIGHTS).resolve()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            described = checkpointer.metadata(weights).item_metadata.tree
    except Exception as error:  # tensorstore and orbax raise whatever a broken file ends them in
        raise ValueError(f"{weights} can't be read as an orbax checkpoint: {error}. Write it again.") from error
    tensors = {
        key: Tensor(tuple(one.shape), str(np.dtype(one.dtype)), partial(_read, weights, key))
        for key, one in described.items()
    }
    tokenizer, no_tokenizer = directory_tokenizer(directory)
    identity, preprocessor = cache(partial(_identity, tensors, config)), read_preprocessor(directory)
    return Checkpoint(config, tensors, tokenizer, no_tokenizer, name, identity, preprocessor)


def _read(weights: Path, key: str) -> np.ndarray:
    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = ocp.args.PyTreeRestore(
            item={key: 0}, restore_args={key: ocp.RestoreArgs(restore_type=np.ndarray)}, partial_restore=True
        )
        return np.asarray(checkpointer.restore(weights, args=arguments)[key])


def _identity(tensors: dict[str, Tensor], config: dict[str, Any]) -> str:
    """A hash of config and tensors: an orbax directory has no one file that stands for them."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].read().tobytes())
    return f"sha256:{digest.hexdigest()}"
