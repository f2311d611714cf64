"""Functions of rows, computed some rows at a time: what they hold between does not grow with the length of a text."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

R = TypeVar("R")


def in_row_chunks(function: Callable[..., R], size: int, *arrays: Array) -> R:
    """Return `function(*arrays)`, of at most `size` rows at a time.

    Each row's results depend on that row alone. Rows are the second axis of all arrays and results, a pytree of
    `[B,R,…]`. Derivatives compute each chunk again.
    """
    count = arrays[0].shape[1]
    if count <= size:
        return function(*arrays)
    chunks = -(-count // max(1, size))
    size = -(-count // chunks)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, chunks * size - count)] + [(0, 0)] * (x.ndim - 2), mode="edge")
        return jnp.moveaxis(x.reshape(len(x), chunks, size, *x.shape[2:]), 1, 0)

    def joined(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], chunks * size, *x.shape[3:])[:, :count]

    results = jax.lax.map(lambda rows: jax.checkpoint(function)(*rows), tuple(map(split, arrays)))
    return jax.tree.map(joined, results)
