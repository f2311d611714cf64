"""Weights stored in MXFP4, as GPT-OSS has its experts, read as float32.

A block is 32 numbers of four bits (the format E2M1) with a common exponent: "Microscaling Data Formats", OCP 2023,
sections 5.2 and 5.3.2. A tensor `X` is stored as `X_blocks`, uint8 `[E, out, in / 32, 16]`, and `X_scales`, uint8
`[E, out, in / 32]`, and used `[E, in, out]`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from .checkpoint import Checkpoint, Tensor

FIELD = "quantization_config"
"""Field of a config that names the method by which weights are packed."""

_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
VALUES = np.concatenate([_VALUES, -_VALUES])
"""The number of each code."""

_BIAS = 127
"""Of the exponents."""


def unpacked(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with tensors in MXFP4 under their own names, to be read as float32; others stay.

    Its config then says nothing of the packing, as the model's weights are whole.

    Raises:
        ValueError: for blocks without scales, or of shapes that don't fit each other; the message names them.
    """
    packing = checkpoint.config.get(FIELD)
    if not isinstance(packing, Mapping) or packing.get("quant_method") != "mxfp4":
        return checkpoint
    tensors = dict(checkpoint.tensors)
    for name in [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]:
        blocks, scales = tensors.pop(f"{name}_blocks"), tensors.pop(f"{name}_scales", None)
        tensors[name] = _tensor(name, blocks, scales, checkpoint.name)
    config = {field: value for field, value in checkpoint.config.items() if field != FIELD}
    return replace(checkpoint, config=config, tensors=tensors)


def _tensor(name: str, blocks: Tensor, scales: Tensor | None, source: str) -> Tensor:
    if scales is None:
        raise ValueError(f"{source} has {name}_blocks but no {name}_scales")
    whole = blocks.dtype in ("uint8", "U8") and scales.dtype in ("uint8", "U8")
    if not whole or len(blocks.shape) != 4 or blocks.shape[-1] != 16 or blocks.shape[:-1] != scales.shape:
        raise ValueError(
            f"{source}: expected uint8 {name}_blocks [experts, out, blocks, 16] and {name}_scales [experts, out, "
            f"blocks], got {blocks.dtype} of shape {list(blocks.shape)} and {scales.dtype} of {list(scales.shape)}"
        )
    experts, out, count, _ = blocks.shape
    return Tensor((experts, count * 32, out), "MXFP4", partial(_read, blocks, scales))


def _read(blocks: Tensor, scales: Tensor) -> np.ndarray:
    codes_EOG16, exponents_EOG = blocks.read(), scales.read().astype(np.int32) - _BIAS
    values_EOG32 = np.empty((*codes_EOG16.shape[:-1], 32), np.float32)
    # The lower half of a byte comes first.
    values_EOG32[..., 0::2], values_EOG32[..., 1::2] = VALUES[codes_EOG16 & 15], VALUES[codes_EOG16 >> 4]
    np.ldexp(values_EOG32, exponents_EOG[..., None], out=values_EOG32)
    return values_EOG32.reshape(*values_EOG32.shape[:2], -1).swapaxes(1, 2)
