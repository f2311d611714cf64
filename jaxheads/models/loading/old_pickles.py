"""Files of torch.save before PyTorch 1.6, as most older checkpoints of the hub are.

They are five pickles in a row: a magic number, the protocol's version, the writer's machine, the state dict, and the
keys of its storages. Then follow the storages in the order of the keys, each with the number of its values before it.
"""

import mmap
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Tensor
from .pickled_tensors import TensorReader, only_tensors
from .plain_pickles import plain_pickle

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
"""The pickle of the magic number, in the protocol that torch.save used."""


def is_old(path: Path) -> bool:
    """Whether a file begins as torch.save wrote it before PyTorch 1.6."""
    with open(path, "rb") as file:
        return file.read(len(_START)) == _START


def old_tensors(path: Path, size: int) -> dict[str, Tensor]:
    """List the tensors of such a file, of `size` bytes; raise ValueError as `pickle_tensors` does."""
    storages = _Storages(path, size)
    reader = TensorReader(path, size, "little", storages.of_key)
    nothing = TensorReader(path, size, "little", storages.none)
    # A map of the file, not the file: it can't be asked for more bytes than there are.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(len(_START))
        version, machine = (plain_pickle(content, **nothing.answers) for _ in range(2))
        if version != _VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise ValueError(f"it has version {version!r} of the old format, or was written on another kind of machine")
        state = plain_pickle(content, **reader.answers)
        storages.place(plain_pickle(content, **nothing.answers), content.tell(), content)
    return only_tensors(path, state)


class _Storages:
    """Storages by their keys: how long the state dict says that they are, and where they turn out to lie."""

    def __init__(self, path: Path, size: int):
        self.path, self.size = path, size
        self.expected: dict[str, tuple[str, int]] = {}
        self.starts: dict[str, int] = {}

    def none(self, key: str, dtype: str, expected: int) -> Callable[[], bytes]:
        raise ValueError("its pickles refer to storages where there are none")

    def of_key(self, key: str, dtype: str, expected: int) -> Callable[[], bytes]:
        """Return a function that reads a storage, once it has its place."""
        if self.expected.setdefault(key, (dtype, expected)) != (dtype, expected):
            raise ValueError(f"storage {key} has two types or lengths")
        return partial(self.content, key, expected)

    def place(self, keys: Any, start: int, content: mmap.mmap) -> None:
        """Find where the storages lie; raise ValueError where they don't, or where the file ends before them."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != {*self.expected}:
            raise ValueError("the storages that it lists are not those of its tensors")
        for key in keys:
            dtype, expected = self.expected[key]
            head = content[start : start + 8]
            if len(head) < 8 or start + 8 + expected > self.size:
                raise ValueError(f"{self.path} is cut off ({self.size:,} bytes). Fetch it again.")
            [count] = struct.unpack("<q", head)
            if count * np.dtype(dtype).itemsize != expected:
                raise ValueError(f"storage {key} should hold {expected} bytes, and has {count} values of {dtype}")
            self.starts[key] = start + 8
            start += 8 + expected

    def content(self, key: str, expected: int) -> bytes:
        """Read a storage."""
        with open(self.path, "rb") as file:
            file.seek(self.starts[key])
            return file.read(expected)
