"""LayerNorm: a stream's mean and variance, in float32 at least."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with two-pass variance; of bfloat16 both statistics come from one pass, see `standardised`."""

    def __init__(self, model: int, epsilon: float, rngs: nnx.Rngs, *, bias: bool = True):
        # The one-pass form (nnx's default) loses digits where the mean is large.
        super().__init__(model, epsilon=epsilon, use_bias=bias, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if x.dtype != jnp.bfloat16 or self.scale is None:
            return super().__call__(x, mask=mask)
        y = standardised(x, self.epsilon) * _like(self.scale[...], x)
        return (y if self.bias is None else y + _like(self.bias[...], x)).astype(x.dtype)


def standardised(x: Array, epsilon: float) -> Array:
    """Return `x` of mean 0 and variance 1 on its last axis, in float32 at least.

    The variance of bfloat16 is `mean(x²) - mean(x)²`, whose means one pass over `x` gives.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axis=-1, keepdims=True)
    if x.dtype != jnp.bfloat16:
        wide = wide - mean
        return wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + epsilon)
    # A large mean costs the difference of squares digits, but fewer than rounding `x` to bfloat16 has cost its
    # variance. On a TPU a pass over the stream takes as long as a projection of it.
    variance = jnp.maximum(jnp.square(wide).mean(axis=-1, keepdims=True) - jnp.square(mean), 0)
    return (wide - mean) * jax.lax.rsqrt(variance + epsilon)


def _like(parameter_D: Array, x: Array) -> Array:
    """Return a parameter in float32, of the rank of `x`."""
    return parameter_D.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + parameter_D.shape)
