"""Emulation of an accelerator's products on a platform that rounds nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from .differences import Multiply, Product, Value, evaluate, rounded


@dataclass(frozen=True)
class RoundedProduct:
    """The product of rounded factors, summed in float32: what an accelerator computes, on one that rounds nothing.

    Attributes:
        bits: of the factors' mantissas: 7 of bfloat16, 10 of TF32.
    """

    bits: int
    everywhere = True

    @property
    def in_loops(self) -> Product:
        """Return the product itself."""
        return self

    def __call__(self, multiply: Multiply, left: Value, right: Value, /) -> Value:
        """Return the product of two arrays."""
        return multiply(rounded(left, self.bits), rounded(right, self.bits))


def with_product(function: Callable[..., Any], product: Product) -> Callable[..., Any]:
    """Return the function with all its products computed by `product`; only arguments that are arrays are traced."""

    def run(*args: Any, **named: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, named))
        arrays = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Array)]

        def of_arrays(*values: Array) -> Any:
            for index, value in zip(arrays, values, strict=True):
                leaves[index] = value
            args, named = jax.tree.unflatten(structure, leaves)
            return function(*args, **named)

        values = [leaves[index] for index in arrays]
        jaxpr, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*values)
        out = evaluate(jaxpr.jaxpr, jaxpr.consts, values, product)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run
