"""What norms do to parts of a stream: their scale and bias, and the norm with its statistics held.

A norm divides by a number that the whole stream decides; with that number held it is linear, and what it makes of a sum
is the sum of what it makes of the parts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .layers import OffsetRMSNorm, SkippedNorm


def affine(norm: Any) -> tuple[Array, Array | None]:
    """What a norm multiplies by and, where it does, adds: `[D]`, or `[L,D]` of the norms of a stack's layers."""
    if isinstance(norm, SkippedNorm):
        scale, bias = affine(norm.norm)
        on = norm.on[...][..., None]
        return jnp.where(on, scale, jnp.ones_like(scale)), None if bias is None else jnp.where(on, bias, 0)
    if isinstance(norm, OffsetRMSNorm):
        return 1 + norm.scale[...], None
    bias = getattr(norm, "bias", None)
    return norm.scale[...], None if bias is None else bias[...]


def remove_affine(norm: Any) -> None:
    """Have a norm multiply by 1 and add 0 from now on."""
    while isinstance(norm, SkippedNorm):
        norm = norm.norm
    as_stored = jnp.zeros_like if isinstance(norm, OffsetRMSNorm) else jnp.ones_like
    norm.scale = nnx.Param(as_stored(norm.scale[...]))
    bias = getattr(norm, "bias", None)
    if bias is not None:
        setattr(norm, "bias", nnx.Param(jnp.zeros_like(bias[...])))  # noqa: B010


def centred(norm: Any) -> Array:
    """Whether a norm takes the stream's mean away: bool, or `[L]` of the norms of a stack's layers."""
    if isinstance(norm, SkippedNorm):
        return norm.on[...] & centred(norm.norm)
    scale = norm.scale[...]
    return jnp.full(scale.shape[:-1], isinstance(norm, nnx.LayerNorm))


def with_frozen_statistics(norm: Any, part: Array, whole: Array) -> Array:
    """What a norm makes of a part of the stream where its statistics are those of the whole, `[…,D]` both, of one rank.

    Linear in the part: the norm's bias is no part's. `norm(whole)` is
    `with_frozen_statistics(norm, whole, whole)` plus that bias. None
    is the norm that does nothing.
    """
    if norm is None:
        return part
    if isinstance(norm, SkippedNorm):
        return jnp.where(norm.on[...], with_frozen_statistics(norm.norm, part, whole), part)
    scale = affine(norm)[0].astype(jnp.float32)
    wide, of_whole = part.astype(jnp.float32), jax.lax.stop_gradient(whole).astype(jnp.float32)
    if isinstance(norm, nnx.LayerNorm):
        wide, of_whole = (x - x.mean(axis=-1, keepdims=True) for x in (wide, of_whole))
    size = jax.lax.rsqrt(jnp.square(of_whole).mean(axis=-1, keepdims=True) + norm.epsilon)
    return (wide * size * scale.reshape((1,) * (part.ndim - 1) + (-1,))).astype(part.dtype)


def unit_stream(like: Array) -> Array:
    """A stream of mean 0 and variance 1, `[…,D]` as `like`: every norm holds its scale, and divides by 1 (but for its
    epsilon)."""
    width = like.shape[-1]
    signs = jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0)
    signs = signs - signs.mean()
    signs = signs / jnp.sqrt(jnp.square(signs).mean()) if width > 1 else jnp.ones(1)
    return jnp.broadcast_to(signs.reshape((1,) * (like.ndim - 1) + (-1,)), like.shape).astype(like.dtype)
