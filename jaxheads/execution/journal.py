"""The journal: finished parts of a long computation on disk, so that a run that was stopped goes on where it was."""

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

Coordinates = Mapping[str, np.ndarray] | Callable[[tuple[int, ...]], Mapping[str, np.ndarray]]
"""Columns of a part's file beside `value`, each broadcast to the part's shape; or a function of that shape."""

_SHAPE = b"jaxheads.shape"


class Journal:
    """Finished parts of one computation, each in a parquet file of its own.

    Args:
        directory: the folder that holds journals; None keeps nothing.
        question: a name for everything the result depends on. Another question gets another folder, so that its parts
            are never taken for answers to this one.
    """

    def __init__(self, directory: str | os.PathLike | None, question: str = ""):
        self.folder = None if directory is None else Path(directory) / question

    def part(self, name: str, compute: Callable[[], np.ndarray], coordinates: Coordinates | None = None) -> np.ndarray:
        """Return a part: read from disk if it is there and whole, else computed and written.

        Args:
            coordinates: columns of the parquet file beside `value`; the indices along each axis when left out.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.parquet"
        if (value := _from_first_process(_read(path))) is not None:
            return value
        value = compute()
        if jax.process_index() > 0:
            return value
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(_write, value, coordinates))
        return value


def fingerprint(model: Model, *parts: Any) -> str:
    """Return a hash (16 hex digits) of the model's weights and of pytrees of arrays and words."""
    digest = hashlib.sha256(_weights_digest(model))
    for leaf in jax.tree.leaves(parts):
        _update(digest, leaf)
    return digest.hexdigest()[:16]


def _write(value: np.ndarray, coordinates: Coordinates | None, file: BinaryIO) -> None:
    if callable(coordinates):
        coordinates = coordinates(value.shape)
    elif coordinates is None:
        coordinates = {f"axis_{axis}": index for axis, index in enumerate(np.indices(value.shape, sparse=True))}
    columns = {name: np.broadcast_to(column, value.shape).reshape(-1) for name, column in coordinates.items()}
    table = pa.table({**columns, "value": value.reshape(-1)})
    pq.write_table(table.replace_schema_metadata({_SHAPE: json.dumps(value.shape)}), file)


def _read(path: Path) -> np.ndarray | None:
    """Return what the file holds; None where there is no file, or one that the disk has damaged."""
    try:
        table = pq.read_table(path, columns=["value"])
    except (FileNotFoundError, pa.ArrowException):
        return None
    return table["value"].to_numpy().reshape(json.loads(table.schema.metadata[_SHAPE])).copy()


def _from_first_process(value: np.ndarray | None) -> np.ndarray | None:
    """Return what the first of several processes has read, so that all go on with it or all compute."""
    if jax.process_count() == 1:
        return value
    # Arrays that are broadcast need one shape everywhere: first whether there is a value and its shape, then its bits.
    shape = np.zeros(9, np.int64) if value is None else np.array([1, value.ndim, *value.shape, *[0] * (7 - value.ndim)])
    exists, axes, *sizes = np.asarray(broadcast_one_to_all(shape.astype(np.int32)))
    if not exists:
        return None
    words = np.zeros(2 * int(np.prod(sizes[:axes])), np.int32) if value is None else value.reshape(-1).view(np.int32)
    return np.asarray(broadcast_one_to_all(words)).view(np.float64).reshape(sizes[:axes])


_DIGESTS: WeakKeyDictionary[Model, bytes] = WeakKeyDictionary()


def _weights_digest(model: Model) -> bytes:
    """Return a hash of config and parameters: a name or a file may stand for weights that have changed since."""
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
