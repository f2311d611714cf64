"""Norms as linear maps: their scale and bias, and the norm with its statistics frozen.

A norm divides by a number that the whole stream decides. With that number frozen it is linear: applied to a sum, it
gives the sum of its terms' values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .layers import FixedLayerNorm, JointRMSNorm, OffsetRMSNorm, SkippedNorm


def scale_and_bias(norm: Any) -> tuple[Array, Array | None]:
    """Return the scale and the bias (or None) of a norm, `[D]`, or `[L,D]` for the stacked norms of L layers.

    Those of a norm of all heads' queries or keys together are `[N*H]`.
    """
    if isinstance(norm, SkippedNorm):
        scale, bias = scale_and_bias(norm.norm)
        on = norm.on[...][..., None]
        return jnp.where(on, scale, jnp.ones_like(scale)), None if bias is None else jnp.where(on, bias, 0)
    if isinstance(norm, OffsetRMSNorm):
        return 1 + norm.scale[...], None
    if isinstance(norm, JointRMSNorm):
        return scale_and_bias(norm.norm)
    bias = getattr(norm, "bias", None)
    return norm.scale[...], None if bias is None else bias[...]


def remove_scale_and_bias(norm: Any) -> None:
    """Set a norm's scale to 1 and its bias to 0, in place."""
    while isinstance(norm, SkippedNorm):
        norm = norm.norm
    if isinstance(norm, FixedLayerNorm):
        return
    as_stored = jnp.zeros_like if isinstance(norm, OffsetRMSNorm) else jnp.ones_like
    norm.scale = nnx.Param(as_stored(norm.scale[...]))
    bias = getattr(norm, "bias", None)
    if bias is not None:
        setattr(norm, "bias", nnx.Param(jnp.zeros_like(bias[...])))  # noqa: B010


def centred(norm: Any) -> Array:
    """Return whether a norm subtracts the stream's mean: bool, or `[L]` for the stacked norms of L layers."""
    if isinstance(norm, SkippedNorm):
        return norm.on[...] & centred(norm.norm)
    inner: Any = norm.norm if isinstance(norm, JointRMSNorm) else norm
    scale = inner.scale[...]
    return jnp.full(scale.shape[:-1], isinstance(norm, nnx.LayerNorm))


def with_frozen_statistics(norm: Any, x: Array, whole: Array) -> Array:
    """Apply a norm to `x` with the statistics of `whole`, both `[…,D]` and of one rank.

    Linear in `x`, and without the norm's bias: `norm(whole)` is `with_frozen_statistics(norm, whole, whole)` plus the
    bias. Statistics have no gradient. `norm` may be None, for none at all.
    """
    if norm is None:
        return x
    if isinstance(norm, SkippedNorm):
        return jnp.where(norm.on[...], with_frozen_statistics(norm.norm, x, whole), x)
    scale = scale_and_bias(norm)[0].astype(jnp.float32)
    wide, wide_whole = x.astype(jnp.float32), jax.lax.stop_gradient(whole).astype(jnp.float32)
    if isinstance(norm, nnx.LayerNorm):
        wide, wide_whole = (values - values.mean(axis=-1, keepdims=True) for values in (wide, wide_whole))
    size = jax.lax.rsqrt(jnp.square(wide_whole).mean(axis=-1, keepdims=True) + norm.epsilon)
    return (wide * size * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def unit_stream(like: Array) -> Array:
    """Return a stream `[…,D]` of mean 0 and variance 1, shaped as `like`, which a norm divides by 1 (but for epsilon).

    As `whole` of `with_frozen_statistics` it reduces a norm to its scale and, of a LayerNorm, its centring.
    """
    width = like.shape[-1]
    signs = jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0)
    signs = signs - signs.mean()
    signs = signs / jnp.sqrt(jnp.square(signs).mean()) if width > 1 else jnp.ones(1)
    return jnp.broadcast_to(signs.reshape((1,) * (like.ndim - 1) + (-1,)), like.shape).astype(like.dtype)
