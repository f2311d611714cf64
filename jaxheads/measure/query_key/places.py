"""Positions of examples as columns of their batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.inputs.batch import Positions


def columns_of(name: str, positions: Positions, chosen: Any) -> NDArray[np.int64]:
    """Return the column `[E]` of each example's position, which counts real ones.

    Raises:
        ValueError: for positions that are no whole numbers, one or one for each example, or that are not there.
    """
    mask_ET = np.asarray(positions.mask)
    numbers = np.asarray(chosen)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (len(mask_ET),)):
        raise ValueError(f"{name} must be one position, or one for each of {len(mask_ET)} examples; got {chosen!r}")
    numbers = np.broadcast_to(numbers, (len(mask_ET),)).astype(np.int64)
    lengths = mask_ET.sum(axis=1)
    if ((numbers < 0) | (numbers >= lengths)).any():
        example = int(np.flatnonzero((numbers < 0) | (numbers >= lengths))[0])
        raise ValueError(
            f"{name}: positions of example {example} are 0..{lengths[example] - 1}, got {numbers[example]}"
        )
    order_ET = np.argsort(~mask_ET, axis=1, kind="stable")
    return np.take_along_axis(order_ET, numbers[:, None], axis=1)[:, 0]
