"""A safetensors file: its header lists the tensors, and each is read on demand."""

import json
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from .checkpoint import Tensor
from .containers import file_size, reading

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

FLOATS_OF_8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Formats that safetensors knows and NumPy has by ml_dtypes only; weights in them come with scales."""


def safetensors_tensors(path: Path) -> dict[str, Tensor]:
    """List a safetensors file's tensors without reading their values.

    Raises:
        ValueError: for a file that is truncated, corrupt, or holds a number format that NumPy (with ml_dtypes) can't
            represent; the message names it.
    """
    size = file_size(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            headers = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({size:,} bytes; {error}). "
            "Was its download cut off, or is it a git-lfs pointer? Fetch it again."
        ) from error
    formats = DTYPES | FLOATS_OF_8
    unknown = sorted({dtype for _, dtype in headers.values()} - set(formats))
    if unknown:
        raise ValueError(
            f"{path} stores tensors as {', '.join(unknown)}; known are {', '.join(formats)}. "
            "Save the model in one of these, for example with model.to(bfloat16).save_pretrained(…)."
        )
    return {
        name: Tensor(shape, formats[dtype], partial(_read_8bit if dtype in FLOATS_OF_8 else _read, path, name))
        for name, (shape, dtype) in headers.items()
    }


def _read(path: Path, name: str) -> np.ndarray:
    with reading(path, "a safetensors file"), safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _read_8bit(path: Path, name: str) -> np.ndarray:
    with reading(path, "a safetensors file"), open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))[name]
        start, end = header["data_offsets"]
        file.seek(8 + size + start)
        content = file.read(end - start)
        return np.frombuffer(content, getattr(ml_dtypes, FLOATS_OF_8[header["dtype"]])).reshape(header["shape"])
