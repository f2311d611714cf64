"""Reader of pytorch_model.bin that needs no PyTorch and runs no code of the pickle.

A file of torch.save (since 1.6) is a zip: `data.pkl` describes tensors as views of storages, and `data/KEY` holds
a storage's bytes. The reader resolves only the names that describe tensors. OrderedDict is the only real class that a
pickle gets, so it can neither call nor change anything.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .checkpoint import Tensor

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
CONVERT = (
    "Convert it where PyTorch is installed: safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
    '"model.safetensors").'
)


def pickle_tensors(path: Path) -> dict[str, Tensor]:
    """List the tensors of a state dict written by torch.save, without reading their values.

    Raises:
        ValueError: for a file that is truncated, older than PyTorch 1.6 or no state dict of tensors, or whose pickle
            names anything that isn't needed to describe tensors; the message names the file.
    """
    _require_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            [description] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            folder = description.removesuffix("data.pkl")
            order = _byte_order(archive, folder)
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            reader = _TensorReader(path, archive.read(description), folder + "data/", order, sizes)
        state = reader.load()
    except Refused:
        raise
    except Exception as error:  # a corrupt pickle can raise anything
        raise ValueError(f"{path} can't be read as a file of torch.save: {error}. Fetch it again.") from error
    return _only_tensors(path, state)


class Refused(ValueError):
    """Error for a pickle that names more than tensors."""


@dataclass(frozen=True)
class _Storage:
    member: str
    dtype: str
    length: int


class _TensorReader(pickle.Unpickler):
    """Unpickler of tensors' descriptions. `find_class` returns nothing that another load shares and could change."""

    def __init__(self, path: Path, data: bytes, folder: str, order: str, sizes: dict[str, int]):
        super().__init__(io.BytesIO(data))
        self._path, self._folder, self._order, self._sizes = path, folder, order, sizes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise Refused(
            f"{self._path} refused: its pickle names {module}.{name}, which isn't needed to describe tensors "
            f"and could run code. If you trust where the file comes from: {CONVERT}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, length = pid
        storage = _Storage(self._folder + str(key), dtype, int(length))
        expected = storage.length * _numpy_dtype(dtype, self._order).itemsize
        if kind != "storage" or self._sizes.get(storage.member, -1) < expected:
            raise ValueError(f"storage {key} should hold {expected} bytes and is missing or shorter")
        return storage

    def _tensor(
        self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *_requires_grad_hooks: Any
    ) -> Tensor:
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or (0 not in shape and last >= storage.length):
            raise ValueError(f"a tensor of shape {shape}, strides {stride}, offset {offset} leaves its storage")
        return Tensor(
            tuple(shape),
            storage.dtype,
            partial(_read, self._path, storage, self._order, offset, shape, stride),
        )

    def _parameter(self, tensor: Tensor, *_requires_grad_hooks: Any) -> Tensor:
        return tensor


def _read(path: Path, storage: _Storage, order: str, offset: int, shape: tuple, stride: tuple) -> np.ndarray:
    dtype = _numpy_dtype(storage.dtype, order)
    try:
        with zipfile.ZipFile(path) as archive:
            values = np.frombuffer(archive.read(storage.member), dtype, storage.length)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is corrupt: {error}. Fetch it again.") from error
    if 0 in shape:
        return np.zeros(shape, dtype)
    steps = [step * dtype.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
    return np.array(view, dtype.newbyteorder("="), order="C")


def _numpy_dtype(name: str, order: str) -> np.dtype:
    if name == "bfloat16":
        if order != sys.byteorder:
            raise ValueError(f"bfloat16 stored {order} endian isn't supported")
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<" if order == "little" else ">")


def _byte_order(archive: zipfile.ZipFile, folder: str) -> str:
    member = folder + "byteorder"  # absent before PyTorch 2.1
    return archive.read(member).decode().strip() if member in archive.namelist() else "little"


def _require_zip(path: Path) -> None:
    if zipfile.is_zipfile(path):
        return
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        raise ValueError(f"{path} is cut off ({path.stat().st_size:,} bytes). Fetch it again.")
    raise ValueError(
        f"{path} isn't in the zip format that torch.save writes since PyTorch 1.6 (it may be older, or a "
        f"git-lfs pointer). {CONVERT}"
    )


def _only_tensors(path: Path, state: object) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a state dict. {CONVERT}")
    entries = dict(dict.items(state)) if isinstance(state, dict) else dict(state)
    others = {str(name): value for name, value in entries.items() if not isinstance(value, Tensor)}
    if others:
        listed = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(others.items())[:8])
        raise ValueError(
            f"{path} isn't a state dict of tensors: {len(others)} of its {len(entries)} entries are "
            f"something else: {listed}. Save the model's own state_dict()."
        )
    return {str(name): value for name, value in entries.items()}
