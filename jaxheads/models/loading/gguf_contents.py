"""The contents of a GGUF file, read within its bounds: metadata, and where its tensors lie.

A file has, little-endian: "GGUF", the version (uint32), the numbers of tensors and of metadata (uint64). For each
metadatum its key, type (uint32) and value. For each tensor its name, the number of its sizes (uint32), these (uint64),
innermost first, its type (uint32) and its offset (uint64) from the start of the data. The data begins at the next
multiple of `general.alignment`. A string follows its length (uint64); an array follows the type of its values (uint32)
and their number (uint64).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...checks import shown
from .containers import file_size, reading

VERSIONS = (2, 3)
ALIGNMENT = 32

_NUMBERS = dict(
    zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "u1 i1 <u2 <i2 <u4 <i4 <f4 u1 <u8 <i8 <f8".split(), strict=True)
)
"""Types of numbers in metadata, as NumPy names them."""

_FLOAT32, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9
_RANK = 4
"""Most axes of a tensor, llama.cpp's limit."""


@dataclass(frozen=True)
class GgufTensor:
    """Location of a tensor in a file.

    Attributes:
        shape: in NumPy's order, the outermost axis first.
        kind: type of the values, "F32" or "Q4_1".
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    size: int

    def read(self) -> np.ndarray:
        """Read the tensor's bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = np.fromfile(file, np.uint8, self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.path} has been cut off since it was opened. Fetch it again")
        return content


@dataclass(frozen=True)
class GgufContents:
    """Metadata by key, and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def gguf_contents(path: Path) -> GgufContents:
    """Read the metadata of a file and list its tensors.

    Raises:
        ValueError: for a file that is cut off, corrupt, of another version, or no GGUF; the message names it.
    """
    size = file_size(path)
    with open(path, "rb") as file:
        if (magic := file.read(4)) != b"GGUF":
            raise ValueError(f"{path} isn't a GGUF file: it starts with {magic!r}, expected b'GGUF'")
    with reading(path, "GGUF"), open(path, "rb") as file:
        file.seek(4)
        cursor = _Cursor(file, size)
        version = cursor.whole(4)
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}, expected 2 or 3, little-endian")
        tensors, metadata = cursor.whole(8), cursor.whole(8)
        values = cursor.named(metadata, 13, lambda: cursor.value(cursor.whole(4)))
        places = cursor.named(tensors, 24, cursor.place)
        alignment = values.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its general.alignment is {shown(alignment)}, expected a power of two")
        start = -(-cursor.at // alignment) * alignment
        listed = {name: _located(path, size, start, name, *place) for name, place in places.items()}
    return GgufContents(values, listed)


def _located(
    path: Path, size: int, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> GgufTensor:
    """Return a tensor's location, or raise ValueError for one that leaves the file."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    stored = GGMLQuantizationType(kind)
    values, block = GGML_QUANT_SIZES[stored]
    if shape and shape[-1] % values:
        raise ValueError(f"{name} of shape {shape} has no whole blocks of {stored.name}")
    count = math.prod(shape) // values * block
    if start + offset + count > size:
        raise ValueError(f"it is cut off ({size:,} bytes): {name} of shape {shape} ends at {start + offset + count:,}")
    return GgufTensor(path, name, shape, stored.name, start + offset, count)


class _Cursor:
    """Reader of a file's values in sequence, none beyond its end."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.at = file, size, file.tell()

    def require(self, count: int) -> None:
        """Raise ValueError unless so many bytes follow."""
        if count > self.size - self.at:
            raise ValueError(f"it is cut off ({self.size:,} bytes)")

    def take(self, count: int) -> bytes:
        self.require(count)
        content = self.file.read(count)
        self.at += count
        if len(content) < count:
            raise ValueError(f"it is cut off ({self.at:,} bytes)")
        return content

    def whole(self, width: int) -> int:
        """Read a whole number of this many bytes."""
        return int.from_bytes(self.take(width), "little")

    def string(self) -> str:
        return self.take(self.whole(8)).decode("utf-8")

    def value(self, kind: int) -> Any:
        """Read a value of metadata. A number of 32 bits gets back the decimals it was rounded from."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.whole(4), self.whole(8))
        [number] = self.numbers(kind, 1)
        return float(str(np.float32(number))) if kind == _FLOAT32 else number

    def array(self, kind: int, count: int) -> list[Any]:
        if kind != _STRING:
            return self.numbers(kind, count)
        self.require(8 * count)  # the lengths alone
        return [self.string() for _ in range(count)]

    def numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _NUMBERS:
            raise ValueError(f"it has metadata of type {kind}, which isn't known here")
        dtype = np.dtype(_NUMBERS[kind])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return (values != 0).tolist() if kind == _BOOL else values.tolist()

    def named(self, count: int, least: int, read: Callable[[], Any]) -> dict[str, Any]:
        """Read values that follow their names, each of at least `least` bytes."""
        self.require(count * least)
        values = {}
        for _ in range(count):
            name = self.string()
            if name in values:
                raise ValueError(f"it has {shown(name)} twice")
            values[name] = read()
        return values

    def place(self) -> tuple[tuple[int, ...], int, int]:
        """Read a tensor's shape, type and offset."""
        rank = self.whole(4)
        if rank > _RANK:
            raise ValueError(f"it has a tensor of {rank} axes, expected at most {_RANK}")
        shape = tuple(self.whole(8) for _ in range(rank))
        return shape[::-1], self.whole(4), self.whole(8)
