"""Arrays as JSON: few bits a number, in base64."""

import base64
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked, more_than
from ..checks import shown


@checked(power=more_than(0))
def packed(
    array: ArrayLike, bits: Literal[8, 16, 32] = 8, *, power: float = 1.0, deflated: bool = False
) -> dict[str, Any]:
    """Return an array as plain values: `shape bits low high power deflated data`; `data` is base64, little-endian.

    With 8 or 16 bits a code c of 0..m, m = 2^bits − 2, stands for `low + (high − low) (c / m)^power`; m + 1 is NaN. So
    a number is off by at most (high − low) / 2m with the power 1. 32 bits are float32.

    Args:
        power: above 1, small numbers are more exact than large ones: 2 suits weights of attention.
        deflated: whether to compress the bytes by zlib; JavaScript then reads them by `await unpacked(…)`.

    Raises:
        ValueError: for infinite numbers.
    """
    values = np.asarray(array, np.float64)
    known = values[~np.isnan(values)]
    if np.isinf(known).any():
        raise ValueError(f"array: expected finite numbers or NaN, got infinity in {np.isinf(known).sum()} places")
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if bits == 32:
        codes = values.astype("<f4")
    else:
        last = 2**bits - 2
        share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.0)
        codes = np.nan_to_num(np.rint(share ** (1 / power) * last), nan=last + 1).astype("<u1" if bits == 8 else "<u2")
    data = codes.tobytes()
    if deflated:
        data = zlib.compress(data, 6)
    text = base64.b64encode(data).decode()
    fields = {"shape": list(values.shape), "bits": bits, "low": low, "high": high, "power": float(power)}
    return {**fields, "deflated": deflated, "data": text}


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Return float64 numbers; raises ValueError, which names the argument, for what is none."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected an array of numbers, got {shown(value)}") from None
