"""Tensors that a pickle of torch.save describes as views of storages, for both of its containers."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .checkpoint import Tensor
from .containers import reading
from .plain_pickles import Name

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
DICT, PARAMETER = Name("collections", "OrderedDict"), Name("torch._utils", "_rebuild_parameter")
TENSORS = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor"))
CONVERT = (
    "Convert it where PyTorch is installed: safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
    '"model.safetensors").'
)
SHARED = 64
"""How many times the bytes of a file its tensors may have in all: layers that share weights are listed one by one."""

_RANK, _LARGEST = 16, 2**48
"""Most axes of a tensor, and the largest number that may describe one."""


@dataclass(frozen=True)
class Storage:
    """A run of values of one type.

    Attributes:
        content: returns its bytes, or more.
        start: the first value of a view of a longer storage.
    """

    content: Callable[[], bytes]
    dtype: str
    length: int
    start: int = 0


class TensorReader:
    """Reader of tensors' descriptions; `storages` returns the storage of a key, a type and a length."""

    def __init__(self, path: Path, size: int, order: str, storages: Callable[[str, str, int], Callable[[], bytes]]):
        self.path, self.size, self.order, self.storages = path, size, order, storages
        self.described = 0

    @property
    def answers(self) -> Mapping[str, Callable[..., Any]]:
        """The answers to what a pickle names, calls and loads, as arguments of `plain_pickle`."""
        return {"name": self.name, "call": self.call, "load": self.storage}

    def name(self, name: Name) -> Name:
        """Return an allowed global."""
        if name in (DICT, PARAMETER, *TENSORS) or (name.module == "torch" and name.name in STORAGES):
            return name
        raise ValueError(
            f"{self.path} refused: its pickle names {name.module}.{name.name}, which isn't needed to describe tensors "
            f"and could run code. If you trust where the file comes from: {CONVERT}"
        )

    def call(self, name: Name, arguments: tuple) -> Any:
        """Return an empty dict, a tensor, or the tensor of a parameter."""
        if name == DICT and not arguments:
            return {}
        if name in TENSORS and len(arguments) >= 4 and type(arguments[0]) is Storage:
            return self.tensor(*arguments[:4])
        if name == PARAMETER and arguments and type(arguments[0]) is Tensor:
            return arguments[0]
        raise ValueError(f"its pickle calls {name.name} with other arguments than torch.save writes")

    def storage(self, pid: Any) -> Storage:
        """Return the storage that a persistent id names: the old container's has a sixth entry, for views."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[1]) is not Name:
            raise ValueError("its pickle refers to something that is no storage")
        _, kind, key, _device, length = pid[:5]
        if kind.module != "torch" or kind.name not in STORAGES or not _is_count(length) or type(key) is not str:
            raise ValueError("its pickle describes a storage of no known type or length")
        dtype = STORAGES[kind.name]
        content = self.storages(key, dtype, length * numpy_dtype(dtype, self.order).itemsize)
        if len(pid) == 5 or pid[5] is None:
            return Storage(content, dtype, length)
        if type(pid[5]) is not tuple or len(pid[5]) != 3 or not all(map(_is_count, pid[5][1:])):
            raise ValueError("its pickle describes a view of a storage by other things than whole numbers")
        _, start, count = pid[5]
        if start + count > length:
            raise ValueError(f"a view of {count} values from {start} leaves storage {key} of {length}")
        return Storage(content, dtype, count, start)

    def tensor(self, storage: Storage, offset: Any, shape: Any, stride: Any) -> Tensor:
        """Return a view of a storage."""
        whole = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride) <= _RANK
        if not whole or not all(type(n) is int and abs(n) <= _LARGEST for n in (offset, *shape, *stride)):
            raise ValueError("its pickle describes a tensor by other things than whole numbers")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or (0 not in shape and last >= storage.length):
            raise ValueError(f"a tensor of shape {shape}, strides {stride}, offset {offset} leaves its storage")
        size = math.prod(shape) * numpy_dtype(storage.dtype, self.order).itemsize
        self.described += size
        if size > self.size or self.described > SHARED * self.size:
            raise ValueError(f"its tensors have more values than a file of {self.size:,} bytes can hold")
        return Tensor(shape, storage.dtype, partial(_read, self.path, storage, self.order, offset, shape, stride))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _read(path: Path, storage: Storage, order: str, offset: int, shape: tuple, stride: tuple) -> np.ndarray:
    dtype = numpy_dtype(storage.dtype, order)
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    with reading(path, "a file of torch.save"):
        values = slice(storage.start * dtype.itemsize, (storage.start + storage.length) * dtype.itemsize)
        steps = [step * dtype.itemsize for step in stride]
        # NumPy refuses a view that leaves the bytes it is given.
        view = np.ndarray(shape, dtype, storage.content()[values], offset * dtype.itemsize, steps)
        return np.array(view, dtype.newbyteorder("="), order="C")


def numpy_dtype(name: str, order: str) -> np.dtype:
    """Return the dtype of a storage's values as they are stored."""
    if order not in ("little", "big"):
        raise ValueError(f"it is stored {order[:20]!r} endian, expected little or big")
    if name == "bfloat16":
        if order != sys.byteorder:
            raise ValueError(f"bfloat16 stored {order} endian isn't supported")
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<" if order == "little" else ">")


def only_tensors(path: Path, state: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict; raise ValueError for what is none."""
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
