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
        size = weight.shape[0] * weight.shape[1]
        if size % LANES == 0:
            # A TPU would copy what attention returns, tile after tile, into one last axis.
            weight_klD = weight.reshape(-1, LANES, weight.shape[-1])
            return affine("btkl,kld->btd", x.reshape(*x.shape[:2], -1, LANES), weight_klD, bias)
        return affine("btf,fd->btd", x.reshape(*x.shape[:2], -1), weight.reshape(size, -1), bias)
    y = jnp.einsum(subscripts, x, weight)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def heads_of_lanes(heads: int, size: int) -> int:
    """Return how many heads fill a tile's lanes; 1 where that leaves a tile half empty, or a head fills one alone."""
    count = max(1, LANES // size)
    return count if LANES % size == 0 and heads % count == 0 else 1
