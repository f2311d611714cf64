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
        if path.exists():
            return np.load(path, allow_pickle=False)
        value = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        write_atomically(path, buffer.getvalue())
        return value


def fingerprint(model: Model, *parts: Any) -> str:
    """A hash of the model's weights and of everything else a result depends on: pytrees of arrays, and words."""
    digest = hashlib.sha256(model.identity().encode())
    if model.identity() == "unknown":
        parts = (*parts, model.network)
    for leaf in jax.tree.leaves(parts):
        if isinstance(leaf, str | int | float | bool):
            digest.update(repr(leaf).encode())
        else:
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
