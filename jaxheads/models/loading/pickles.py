"""Reader of pytorch_model.bin that needs no PyTorch and runs no code of the pickle.

A file of torch.save (since 1.6) is a zip: `data.pkl` describes tensors as views of storages, and `data/KEY` holds
a storage's bytes. `plain_pickles` runs the description, in which only the names that describe tensors are allowed.
NumPy checks a view's bounds again where its bytes are read.
"""

import math
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .checkpoint import Tensor
from .containers import file_size, reading
from .plain_pickles import Name, plain_pickle

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
DICT, TENSOR, PARAMETER = (
    Name("collections", "OrderedDict"),
    Name("torch._utils", "_rebuild_tensor_v2"),
    Name("torch._utils", "_rebuild_parameter"),
)
CONVERT = (
    "Convert it where PyTorch is installed: safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
    '"model.safetensors").'
)
SHARED = 64
"""How many times the bytes of a file its tensors may have in all: layers that share weights are listed one by one."""

_RANK, _LARGEST = 16, 2**48
"""Most axes of a tensor, and the largest number that may describe one."""


def pickle_tensors(path: Path) -> dict[str, Tensor]:
    """List the tensors of a state dict written by torch.save, without reading their values.

    Raises:
        ValueError: for a file that is truncated, older than PyTorch 1.6 or no state dict of tensors, whose pickle does
            or names anything that isn't needed to describe tensors, or whose tensors leave their storages; the message
            names the file.
    """
    size = file_size(path)
    with reading(path, "a file of torch.save"):
        _require_zip(path, size)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
        descriptions = [name for name in members if name.endswith("/data.pkl")]
        if len(descriptions) != 1:
            raise ValueError(f"it holds {len(descriptions)} files data.pkl, expected one")
        reader = _TensorReader(path, size, members, descriptions[0].removesuffix("data.pkl"))
        return _only_tensors(path, reader.state(members[descriptions[0]]))


@dataclass(frozen=True)
class _Storage:
    """A run of values of one type in a member of the zip."""

    member: zipfile.ZipInfo
    dtype: str
    length: int


class _TensorReader:
    """Reader of tensors' descriptions."""

    def __init__(self, path: Path, size: int, members: dict[str, zipfile.ZipInfo], folder: str):
        self.path, self.size, self.members, self.folder = path, size, members, folder
        order = members.get(folder + "byteorder")  # absent before PyTorch 2.1
        self.order = "little" if order is None else self.content(order).decode("ascii").strip()
        self.described = 0

    def content(self, member: zipfile.ZipInfo) -> bytes:
        """Read a member of the zip."""
        _check_member(member, self.size)
        return _content(self.path, member)

    def state(self, description: zipfile.ZipInfo) -> Any:
        """Return what the pickle describes."""
        return plain_pickle(self.content(description), name=self.name, call=self.call, load=self.storage)

    def name(self, name: Name) -> Name:
        """Return an allowed global."""
        if name in (DICT, TENSOR, PARAMETER) or (name.module == "torch" and name.name in STORAGES):
            return name
        raise ValueError(
            f"{self.path} refused: its pickle names {name.module}.{name.name}, which isn't needed to describe tensors "
            f"and could run code. If you trust where the file comes from: {CONVERT}"
        )

    def call(self, name: Name, arguments: tuple) -> Any:
        """Return an empty dict, a tensor, or the tensor of a parameter."""
        if name == DICT and not arguments:
            return {}
        if name == TENSOR and len(arguments) >= 4 and type(arguments[0]) is _Storage:
            return self.tensor(*arguments[:4])
        if name == PARAMETER and arguments and type(arguments[0]) is Tensor:
            return arguments[0]
        raise ValueError(f"its pickle calls {name.name} with other arguments than torch.save writes")

    def storage(self, pid: Any) -> _Storage:
        """Return the storage that a persistent id names."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not Name:
            raise ValueError("its pickle refers to something that is no storage")
        _, kind, key, _device, length = pid
        member = self.members.get(f"{self.folder}data/{key}") if type(key) is str else None
        if kind.module != "torch" or kind.name not in STORAGES or type(length) is not int or length < 0:
            raise ValueError("its pickle describes a storage of no known type or length")
        dtype = STORAGES[kind.name]
        expected = length * _numpy_dtype(dtype, self.order).itemsize
        if member is None or member.file_size < expected:
            raise ValueError(f"storage {key} should hold {expected} bytes and is missing or shorter")
        _check_member(member, self.size)
        return _Storage(member, dtype, length)

    def tensor(self, storage: _Storage, offset: Any, shape: Any, stride: Any) -> Tensor:
        """Return a view of a storage."""
        whole = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride) <= _RANK
        if not whole or not all(type(n) is int and abs(n) <= _LARGEST for n in (offset, *shape, *stride)):
            raise ValueError("its pickle describes a tensor by other things than whole numbers")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or (0 not in shape and last >= storage.length):
            raise ValueError(f"a tensor of shape {shape}, strides {stride}, offset {offset} leaves its storage")
        size = math.prod(shape) * _numpy_dtype(storage.dtype, self.order).itemsize
        self.described += size
        if size > self.size or self.described > SHARED * self.size:
            raise ValueError(f"its tensors have more values than a file of {self.size:,} bytes can hold")
        return Tensor(shape, storage.dtype, partial(_read, self.path, storage, self.order, offset, shape, stride))


def _read(path: Path, storage: _Storage, order: str, offset: int, shape: tuple, stride: tuple) -> np.ndarray:
    dtype = _numpy_dtype(storage.dtype, order)
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    with reading(path, "a file of torch.save"):
        content = _content(path, storage.member)[: storage.length * dtype.itemsize]
        steps = [step * dtype.itemsize for step in stride]
        # NumPy refuses a view that leaves the bytes it is given.
        view = np.ndarray(shape, dtype, content, offset * dtype.itemsize, steps)
        return np.array(view, dtype.newbyteorder("="), order="C")


def _content(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Read a member of a zip where it lies; zipfile would read the zip's whole directory each time."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
        if len(header) == 30 and header.startswith(b"PK\3\4"):
            file.seek(sum(struct.unpack("<26x2H", header)), 1)  # past the member's name and extra field
            content = file.read(member.file_size)
            if zlib.crc32(content) == member.CRC:
                return content
    raise ValueError(f"{path} is corrupt: {member.filename} is not what the file's directory lists. Fetch it again.")


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} is compressed, as torch.save never does. {CONVERT}")
    if not 0 <= member.header_offset <= member.header_offset + member.file_size <= size:
        raise ValueError(f"{member.filename} lies outside the file")


def _numpy_dtype(name: str, order: str) -> np.dtype:
    if order not in ("little", "big"):
        raise ValueError(f"it is stored {order[:20]!r} endian, expected little or big")
    if name == "bfloat16":
        if order != sys.byteorder:
            raise ValueError(f"bfloat16 stored {order} endian isn't supported")
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<" if order == "little" else ">")


def _require_zip(path: Path, size: int) -> None:
    if zipfile.is_zipfile(path):
        return
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        raise ValueError(f"{path} is cut off ({size:,} bytes). Fetch it again.")
    raise ValueError(
        f"{path} isn't in the zip format that torch.save writes since PyTorch 1.6 (it may be older, or a "
        f"git-lfs pointer). {CONVERT}"
    )


def _only_tensors(path: Path, state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a state dict. {CONVERT}")
    others = {str(name): value for name, value in state.items() if not isinstance(value, Tensor)}
    if others:
        listed = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(others.items())[:8])
        raise ValueError(
            f"{path} isn't a state dict of tensors: {len(others)} of its {len(state)} entries are "
            f"something else: {listed}. Save the model's own state_dict()."
        )
    return {str(name): value for name, value in state.items()}
