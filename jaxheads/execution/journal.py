"""Long runs: what is finished is on disk at once, and a run that was stopped goes on where it was."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.experimental.multihost_utils import broadcast_one_to_all

from ..files import write_atomically
from ..models.model import Model
from ..models.sharding import fetch

_SHAPE = b"jaxheads.shape"


class Journal:
    """Finished pieces of one computation, each in a file of its own, under a name that tells the question.

    Args:
        directory: where journals are kept, or None to keep nothing.
        question: everything the result depends on; another question gets another folder, so that pieces are never
            taken for an answer to something else.
    """

    def __init__(self, directory: str | os.PathLike | None, question: str):
        self.folder = None if directory is None else Path(directory) / question

    def piece(
        self, name: str, compute: Callable[[], np.ndarray], coordinates: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """The named piece: from disk if it is there and whole, else computed and written.

        Args:
            coordinates: columns of the parquet file that is written, beside `value`: each broadcasts to the piece's
                shape. Numbers along each axis when left out.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.parquet"
        if (kept := _first_process(_kept(path))) is not None:
            return kept
        value = compute()
        if jax.process_index() > 0:
            return value
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(_write, value, coordinates))
        return value


def _write(value: np.ndarray, coordinates: Mapping[str, np.ndarray] | None, file: BinaryIO) -> None:
    if coordinates is None:
        coordinates = {f"axis_{axis}": each for axis, each in enumerate(np.indices(value.shape, sparse=True))}
    columns = {name: np.broadcast_to(each, value.shape).reshape(-1) for name, each in coordinates.items()}
    part = pa.table({**columns, "value": value.reshape(-1)})
    pq.write_table(part.replace_schema_metadata({_SHAPE: json.dumps(value.shape)}), file)


def _kept(path: Path) -> np.ndarray | None:
    """What was written there; None if nothing was, or if it is no longer whole (a disk may lose what it was given)."""
    try:
        part = pq.read_table(path, columns=["value"])
    except (FileNotFoundError, pa.ArrowException):
        return None
    return part["value"].to_numpy().reshape(json.loads(part.schema.metadata[_SHAPE])).copy()


def _first_process(kept: np.ndarray | None) -> np.ndarray | None:
    """What the first of several processes has: all go on with the same, or all compute."""
    if jax.process_count() == 1:
        return kept
    shape = np.zeros(9, np.int64) if kept is None else np.array([1, kept.ndim, *kept.shape, *[0] * (7 - kept.ndim)])
    there, axes, *sizes = np.asarray(broadcast_one_to_all(shape.astype(np.int32)))
    if not there:
        return None
    words = np.zeros(2 * int(np.prod(sizes[:axes])), np.int32) if kept is None else kept.reshape(-1).view(np.int32)
    return np.asarray(broadcast_one_to_all(words)).view(np.float64).reshape(sizes[:axes])


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
    array = fetch(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
