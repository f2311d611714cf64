"""Long runs: what is finished is on disk at once, and a run that was stopped goes on where it was."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

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
    """A hash of the model's weights and of everything else a result depends on: pytrees of arrays, and words."""
    digest = hashlib.sha256(_weights_digest(model))
    for leaf in jax.tree.leaves(parts):
        _update(digest, leaf)
    return digest.hexdigest()[:16]


_DIGESTS: WeakKeyDictionary[Model, bytes] = WeakKeyDictionary()


def _weights_digest(model: Model) -> bytes:
    """Of the parameters themselves: a name or a file may stand for weights that were changed since."""
    if model not in _DIGESTS:
        digest = hashlib.sha256(repr(model.config).encode())
        for leaf in jax.tree.leaves(model.network):
            _update(digest, leaf)
        _DIGESTS[model] = digest.digest()
    return _DIGESTS[model]


def _update(digest: Any, leaf: Any) -> None:
    if isinstance(leaf, str | int | float | bool):
        digest.update(repr(leaf).encode())
        return
    array = np.asarray(leaf)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
