"""Shapes in place of parameters, for models that are planned and rehearsed but never run."""

from typing import Any

import jax
import numpy as np


class Unfilled(jax.ShapeDtypeStruct):
    """The shape and dtype of a parameter without values, which `[...]` returns whole, as it does an array."""

    @property
    def nbytes(self) -> int:
        """Bytes that the values would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> "Unfilled":
        if index is not Ellipsis:
            raise ValueError(f"expected `...` as the index of a parameter without values, got {index}")
        return self


def unfilled(shapes: Any) -> Any:
    """Return the tree of what `jax.eval_shape` returned with `Unfilled` leaves."""
    return jax.tree.map(lambda leaf: Unfilled(leaf.shape, leaf.dtype), shapes)
