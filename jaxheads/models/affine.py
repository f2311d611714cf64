"""Products with weights, in the form that compilers lay out best."""

import math

import jax.numpy as jnp
from jax import Array

LANES = 128
"""Lanes of a TPU's tile, in which it keeps the last axis of an array."""


def affine(subscripts: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """Return the product (einsum) of `x` and a weight, plus a bias of the product's last axes."""
    # Heads are put side by side: a narrow last axis leaves most of each tile empty, and is slower on CPUs too.
    if subscripts == "btd,dnh->btnh":
        lanes = math.gcd(weight.shape[1] * weight.shape[2], LANES)
        tiles_kl = None if bias is None else bias.reshape(-1, lanes)
        y_BTkl = affine("btd,dkl->btkl", x, weight.reshape(len(weight), -1, lanes), tiles_kl)
        return y_BTkl.reshape(*y_BTkl.shape[:2], *weight.shape[1:])
    if subscripts == "btnh,nhd->btd":
        whole_FD = weight.reshape(-1, weight.shape[-1])
        return affine("btf,fd->btd", x.reshape(*x.shape[:2], -1), whole_FD, bias)
    y = jnp.einsum(subscripts, x, weight)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
