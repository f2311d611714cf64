"""Images as sequences: embedded patches, and learnt positions brought to a grid of another size."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .loading.weights import Rule


class Patches(nnx.Module):
    """A convolution whose stride is its kernel: every patch of `size` × `size` pixels by one matrix, kernel
    `[size,size,C,D]`."""

    def __init__(self, size: int, channels: int, model: int, *, rngs: nnx.Rngs, bias: bool = True):
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), (size, size, channels, model)))
        self.bias = nnx.Param(jnp.zeros((model,))) if bias else None

    def __call__(self, pixels_BXYC: Array) -> Array:
        """Patches row by row, `[B,P,D]`."""
        kernel = self.kernel[...]
        size, _, channels, model = kernel.shape
        B, height, width, _ = pixels_BXYC.shape
        rows, columns = height // size, width // size
        split = pixels_BXYC.astype(kernel.dtype).reshape(B, rows, size, columns, size, channels)
        flat_BPF = jnp.moveaxis(split, 3, 2).reshape(B, rows * columns, -1)
        x_BPD = flat_BPF @ kernel.reshape(-1, model)
        return x_BPD if self.bias is None else x_BPD + self.bias[...][None, None]


def patch_kernel(name: str, path: str) -> Rule:
    """A convolution's weights: stored `[D,C,size,size]`, used `[size,size,C,D]`."""
    return Rule(
        name, (path,), lambda tensor, shapes: (tensor.transpose(2, 3, 1, 0),), lambda value: value.transpose(3, 2, 0, 1)
    )


def without_first_axis(name: str, path: str) -> Rule:
    """What is stored with a first axis of one, for all examples of a batch, and used without it."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor[0],), lambda value: value[None])


def resize_grid(grid_XYD: Array, rows: int, columns: int, *, antialias: bool = False) -> Array:
    """Learnt positions of a grid, bicubically brought to another, `[rows,columns,D]`, as torch's `interpolate` does
    with `align_corners=False`."""
    by_row, by_column = (
        jnp.asarray(_bicubic(old, new, antialias), jnp.float32)
        for old, new in zip(grid_XYD.shape, (rows, columns), strict=False)
    )
    resized = jnp.einsum("rx,cy,xyd->rcd", by_row, by_column, grid_XYD.astype(jnp.float32))
    return resized.astype(grid_XYD.dtype)


def _bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """Weights `[new,old]` of an axis's old points in its new ones.

    Torch takes Keys' (1981) kernel with a = −0.75 and, where it reaches beyond the edge, the point at the edge. With
    antialias it takes a = −0.5, as wide as the points lie apart, and what reaches beyond is left out.
    """
    scale = old / new
    weights = np.zeros((new, old))
    for point in range(new):
        centre = (point + 0.5) * scale - 0.5
        if antialias:
            wide = max(scale, 1.0)
            near = np.arange(old)[np.abs(np.arange(old) - centre) < 2 * wide]
            parts = _keys((near - centre) / wide, -0.5)
            weights[point, near] = parts / parts.sum()
        else:
            near = np.floor(centre) + np.arange(-1, 3)
            np.add.at(weights[point], np.clip(near, 0, old - 1).astype(int), _keys(near - centre, -0.75))
    return weights


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    within = ((a + 2) * x - (a + 3)) * x * x + 1
    beyond = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, within, np.where(x < 2, beyond, 0.0))
