"""LayerNorm: a stream's mean and variance, in float32 at least."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..differences import of_pairs
from .affine import LANES


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with two-pass variance; of bfloat16 both statistics come from one pass, see `standardised`."""

    def __init__(self, model: int, epsilon: float, rngs: nnx.Rngs, *, bias: bool = True):
        # The one-pass form (nnx's default) loses digits where the mean is large.
        super().__init__(model, epsilon=epsilon, use_bias=bias, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if self.scale is None:
            return super().__call__(x, mask=mask)
        y = standardised(x, self.epsilon) * _like(self.scale[...], x)
        return (y if self.bias is None else y + _like(self.bias[...], x)).astype(x.dtype)


class RMSNorm(nnx.RMSNorm):
    """RMSNorm; on a TPU the mean square of bfloat16 comes from a matrix product, see `_mean_square`."""

    def __init__(self, model: int, epsilon: float, rngs: nnx.Rngs):
        super().__init__(model, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if x.dtype != jnp.bfloat16 or self.scale is None:
            return super().__call__(x, mask=mask)
        factor = jax.lax.rsqrt(_mean_square(x) + self.epsilon)
        return (x.astype(jnp.float32) * (factor * _like(self.scale[...], x))).astype(x.dtype)


def _mean_square(x: Array) -> Array:
    """Return the mean square of bfloat16 on its last axis, which stays, in float32."""
    return jax.lax.platform_dependent(x, tpu=_multiplied, default=_summed)


def _summed(x: Array) -> Array:
    return jnp.square(x.astype(jnp.float32)).mean(axis=-1, keepdims=True)


def _multiplied(x: Array) -> Array:
    # A TPU adds up lanes slowly. Each square is rounded by at most 2^-9 of itself, as `x` was.
    ones = jnp.ones((x.shape[-1], LANES), x.dtype)
    total = jnp.einsum("...d,dl->...l", jnp.square(x), ones, preferred_element_type=jnp.float32)
    return total[..., :1] / x.shape[-1]


def standardised(x: Array, epsilon: float) -> Array:
    """Return `x` of mean 0 and variance 1 on its last axis, in float32 at least.

    The variance of bfloat16 is `mean(x²) - mean(x)²`, whose means one pass over `x` gives.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x.dtype != jnp.bfloat16:
        mean, variance = _moments(wide)
    else:
        # A large mean costs the difference of squares digits, but fewer than rounding `x` to bfloat16 has cost its
        # variance. On a TPU a pass over the stream takes as long as a projection of it.
        mean = wide.mean(axis=-1, keepdims=True)
        variance = _about(wide, mean, jnp.zeros_like(mean))
    return (wide - mean) * jax.lax.rsqrt(variance + epsilon)


def _about(x: Array, mean: Array, center: Array) -> Array:
    """Return the variance of the last axis by squares about a centre, which should be near the mean."""
    return jnp.maximum(jnp.square(x - center).mean(axis=-1, keepdims=True) - jnp.square(mean - center), 0)


def _moments_beside(unedited: Array, edited: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the moments of an unedited array, and of an edited one in one pass: the unedited mean is near its own."""
    mean, variance = _moments(unedited)
    edited_mean = edited.mean(axis=-1, keepdims=True)
    return (mean, variance), (edited_mean, _about(edited, edited_mean, mean))


@of_pairs(_moments_beside)
def _moments(x: Array) -> tuple[Array, Array]:
    """Return mean and variance of the last axis, in two passes."""
    mean = x.mean(axis=-1, keepdims=True)
    return mean, jnp.square(x - mean).mean(axis=-1, keepdims=True)


def _like(parameter_D: Array, x: Array) -> Array:
    """Return a parameter in float32, of the rank of `x`."""
    return parameter_D.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + parameter_D.shape)
