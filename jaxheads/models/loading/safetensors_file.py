"""A safetensors file: its header lists the tensors, and each is read on demand."""

from functools import partial
from pathlib import Path

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
    unknown = sorted({dtype for _, dtype in headers.values()} - set(DTYPES))
    if unknown:
        raise ValueError(
            f"{path} stores tensors as {', '.join(unknown)}; known are {', '.join(DTYPES)}. "
            "Save the model in one of these, for example with model.to(bfloat16).save_pretrained(…)."
        )
    return {name: Tensor(shape, DTYPES[dtype], partial(_read, path, name)) for name, (shape, dtype) in headers.items()}


def _read(path: Path, name: str) -> np.ndarray:
    with reading(path, "a safetensors file"), safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)
