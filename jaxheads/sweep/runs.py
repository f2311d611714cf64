"""Long runs: what is finished is on disk at once, and a run that was stopped goes on where it was."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..files import write_atomically
from ..models.model import Model


class Journal:
    """Finished pieces of one computation, each in a file of its own, under a name that tells the question.

    Args:
        directory: where journals are kept, or None to keep nothing.
        question: everything the result depends on; another question gets another folder, so that pieces are never
            taken for an answer to something else.
    """

    def __init__(self, directory: str | os.PathLike | None, question: str):
        self.folder = None if directory is None else Path(directory) / question

    def piece(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The named piece: from disk if it is there and whole, else computed and written."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.npy"
        if (kept := _kept(path)) is not None:
            return kept
        value = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        write_atomically(path, buffer.getvalue())
        return value


def _kept(path: Path) -> np.ndarray | None:
    """What was written there; None if nothing was, or if it is no longer whole (a disk may lose what it was given)."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (FileNotFoundError, ValueError):
        return None


def fingerprint(model: Model, *parts: Any) -> str:
    """A hash of the model and of everything else a result depends on: pytrees of arrays, and words.

    The weights are hashed as they are: a model whose weights were changed, or loaded in another dtype, may still be
    called by the identity of its file.
    """
    digest = hashlib.sha256(repr(model.config).encode())
    for leaf in jax.tree.leaves((model.network, parts)):
        if isinstance(leaf, str | int | float | bool):
            digest.update(repr(leaf).encode())
        else:
            array = np.asarray(leaf)
            data = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
            digest.update(f"{array.dtype}{array.shape}".encode() + data)
    return digest.hexdigest()[:16]
