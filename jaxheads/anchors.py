"""Anchors: an unedited run's products with weights, computed once and kept for all its edited copies.

Edited copies run in groups, and each group's differences are taken from the unedited run. Without anchors every group
computes that run again, in float32, whose products cost a TPU six times those of a copy. With them only what is no
product with a weight is computed again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from .differences import (
    ANCHORED,
    DifferenceProduct,
    Multiply,
    Pair,
    Product,
    Value,
    evaluate,
    is_anchored,
    of_unedited,
)


@dataclass(frozen=True)
class _Recording:
    """A product of pairs of equal values that keeps the results that are anchors."""

    leading: tuple[int, ...]
    kept: list[Array] = field(default_factory=list)
    everywhere = False

    @property
    def in_loops(self) -> Product:
        """Return the product that records nothing."""
        return DifferenceProduct()

    def __call__(self, multiply: Multiply, left: Value, right: Value, /) -> Value:
        """Return the product of two values."""
        product = multiply(of_unedited(left), of_unedited(right))
        if is_anchored(multiply, left, right, self.leading):
            self.kept.append(product)
        return Pair(product, product)


def anchors_of(function: Callable[..., Any], *arguments: Any) -> tuple[Array, ...]:
    """Return a function's products of float32 with weights, as they come: `[B,T,…]` of a first argument `[B,T,…]`."""
    jaxpr, leaves = jax.make_jaxpr(function)(*arguments), jax.tree.leaves(arguments)
    recording = _Recording(leaves[0].shape[:2])
    evaluate(jaxpr.jaxpr, jaxpr.consts, [Pair(leaf, leaf) for leaf in leaves], recording)
    return tuple(recording.kept)


def anchored(function: Callable[..., Any], anchors: Sequence[Array], *arguments: Any) -> Any:
    """Return the function's value, within a function that is `paired`.

    Args:
        anchors: `anchors_of` the same function, of the unedited arguments.
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    # Values from outside are arguments, since an edit may reach them.
    inputs = (*anchors, *jaxpr.consts, *jax.tree.leaves(arguments))
    out = ANCHORED.bind(*inputs, jaxpr=jaxpr.jaxpr, anchors=len(anchors))
    return jax.tree.unflatten(jax.tree.structure(shapes), out)
