"""Images as sequences: embedded patches, and learnt positions interpolated to a grid of another size."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .loading.weights import Rule


class Patches(nnx.Module):
    """A convolution of stride `size`, which embeds each patch of `size` × `size` pixels; kernel `[size,size,C,D]`."""

    def __init__(self, size: int, channels: int, model: int, *, rngs: nnx.Rngs, bias: bool = True):
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), (size, size, channels, model)))
        self.bias = nnx.Param(jnp.zeros((model,))) if bias else None

    def __call__(self, pixels_BXYC: Array) -> Array:
        """Return the embedded patches `[B,P,D]`, row by row."""
        kernel = self.kernel[...]
        size, _, channels, model = kernel.shape
        B, height, width, _ = pixels_BXYC.shape
        rows, columns = height // size, width // size
        split = pixels_BXYC.astype(kernel.dtype).reshape(B, rows, size, columns, size, channels)
        flat_BPF = jnp.moveaxis(split, 3, 2).reshape(B, rows * columns, -1)
        x_BPD = flat_BPF @ kernel.reshape(-1, model)
        return x_BPD if self.bias is None else x_BPD + self.bias[...][None, None]


def patch_kernel(name: str, path: str) -> Rule:
    """Return the rule of a convolution's weights, stored `[D,C,size,size]` and used `[size,size,C,D]`."""
    return Rule(
        name, (path,), lambda tensor, shapes: (tensor.transpose(2, 3, 1, 0),), lambda value: value.transpose(3, 2, 0, 1)
    )


def without_first_axis(name: str, path: str) -> Rule:
    """Return the rule of a tensor that is stored with a first axis of size 1 and used without it."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor[0],), lambda value: value[None])


def resize_grid(grid_XYD: Array, rows: int, columns: int, *, antialias: bool = False) -> Array:
    """Interpolate learnt positions bicubically to a grid `[rows,columns,D]`.

    Equal to torch's `interpolate` with `align_corners=False`.
    """
    by_row, by_column = (
        jnp.asarray(_bicubic(old, new, antialias), jnp.float32)
        for old, new in zip(grid_XYD.shape, (rows, columns), strict=False)
    )
    resized = jnp.einsum("rx,cy,xyd->rcd", by_row, by_column, grid_XYD.astype(jnp.float32))
    return resized.astype(grid_XYD.dtype)


def _bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """Return the weight of each of an axis's old points in each new one, `[new,old]`.

    Torch takes Keys' (1981) kernel with a = −0.75, and repeats the point at the edge beyond it. With `antialias` it
    takes a = −0.5, scales the kernel to the distance of the new points, and leaves out what is beyond the edge.
    """
    scale = old / new
    weights = np.zeros((new, old))
    for point in range(new):
        centre = (point + 0.5) * scale - 0.5
        if antialias:
            width = max(scale, 1.0)
            near = np.arange(old)[np.abs(np.arange(old) - centre) < 2 * width]
            values = _keys_kernel((near - centre) / width, -0.5)
            weights[point, near] = values / values.sum()
        else:
            near = np.floor(centre) + np.arange(-1, 3)
            np.add.at(weights[point], np.clip(near, 0, old - 1).astype(int), _keys_kernel(near - centre, -0.75))
    return weights


def _keys_kernel(x: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic kernel at distance `x`."""
    x = np.abs(x)
    within = ((a + 2) * x - (a + 3)) * x * x + 1
    beyond = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, within, np.where(x < 2, beyond, 0.0))
