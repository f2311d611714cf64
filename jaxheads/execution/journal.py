"""The journal: finished parts of a long computation on disk, so that a run that was stopped goes on where it was."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.experimental.multihost_utils import broadcast_one_to_all

from ..files import write_atomically
from .identity import content_sha256

Coordinates = Mapping[str, np.ndarray] | Callable[[tuple[int, ...]], Mapping[str, np.ndarray]]
"""Columns of a part's file beside `value`, each broadcast to the part's shape; or a function of that shape."""

_SHAPE, _HASH = b"jaxheads.shape", b"jaxheads.sha256"

logger = logging.getLogger(__name__)


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
        write_atomically(path, partial(_write, _name(path), value, coordinates))
        return value


def _write(name: str, value: np.ndarray, coordinates: Coordinates | None, file: BinaryIO) -> None:
    if callable(coordinates):
        coordinates = coordinates(value.shape)
    elif coordinates is None:
        coordinates = {f"axis_{axis}": index for axis, index in enumerate(np.indices(value.shape, sparse=True))}
    columns = {name: np.broadcast_to(column, value.shape).reshape(-1) for name, column in coordinates.items()}
    table = pa.table({**columns, "value": value.reshape(-1)})
    shape = json.dumps(value.shape)
    pq.write_table(table.replace_schema_metadata({_SHAPE: shape, _HASH: content_sha256(name, value)}), file)


def _name(path: Path) -> str:
    """Return the part's name with its question's: the content of a file counts under no other name."""
    return f"{path.parent.name}/{path.name}"


def _read(path: Path) -> np.ndarray | None:
    """Return what the file holds; None where there is no file, or one that is not as it was written."""
    try:
        table = pq.read_table(path, columns=["value"])
        metadata = table.schema.metadata
        value = table["value"].to_numpy().reshape(json.loads(metadata[_SHAPE])).copy()
        whole = content_sha256(_name(path), value).encode() == metadata[_HASH]
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file fails in any layer of the reader, in whatever way
        whole = False
    if not whole:
        logger.warning("%s is damaged: its part of the work is done again", path)
        return None
    return value


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
