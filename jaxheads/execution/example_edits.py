"""Edits beside batches: those of a chunk's examples, on the devices that the examples are on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jax import Array

from ..models.sites import SiteEdit
from .devices import Devices


def take_edits(edits: Sequence[SiteEdit], examples: np.ndarray, *, axis: int = 1) -> tuple[SiteEdit, ...]:
    """Return the edits of these examples; an edit without an axis of examples stays.

    Args:
        axis: that of the examples in weights and sources.
    """

    def take(array: Array) -> Array:
        return array if array.shape[axis] == 1 else array.take(examples, axis=axis)

    return tuple(replace(edit, weight=take(edit.weight), source=take(edit.source)) for edit in edits)


def placed_edits(devices: Devices, edits: Sequence[SiteEdit], *, axis: int = 1) -> tuple[SiteEdit, ...]:
    """Return edits on devices, split over them along their axis of examples."""

    def place(array: Array) -> Array:
        return devices.everywhere(array) if array.shape[axis] == 1 else devices.examples(array, axis=axis)

    return tuple(
        replace(edit, layers=devices.everywhere(edit.layers), weight=place(edit.weight), source=place(edit.source))
        for edit in edits
    )
