"""Positions spread over the devices of a mesh: each device computes its own stripe of them.

A mesh with an axis "context" splits the queries of every example, and with them the stream, its norms and its MLPs.
Keys and values are gathered in each layer, since every query may look at all of them. (Liu et al. 2023 pass them
round in a ring instead, which saves the memory of one layer's.) The mesh is that of the program's arguments
(`programs.on_mesh`); without such an axis nothing is spread.
"""

from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec as P

AXIS = "context"
"""The mesh's axis that positions are split over."""


def stripes(positions: int) -> int:
    """Return the number of stripes that positions are split into: 1 where they do not divide evenly."""
    count = dict(jax.sharding.get_abstract_mesh().shape).get(AXIS, 1)
    return count if positions % count == 0 else 1


def is_spread_over_devices() -> bool:
    """Whether the program runs on several devices: a kernel by hand, which XLA can't split, is then of no use."""
    return jax.sharding.get_abstract_mesh().size > 1


def spread(x: Array, axis: int) -> Array:
    """Split an array's axis of positions over the mesh."""
    return x if stripes(x.shape[axis]) == 1 else _constrained(x, axis, AXIS)


def gathered(x: Array, axis: int) -> Array:
    """Have all of an array's positions on each device."""
    return x if stripes(x.shape[axis]) == 1 else _constrained(x, axis, None)


def _constrained(x: Array, axis: int, name: str | None) -> Array:
    spec: list[Any] = [P.UNCONSTRAINED] * x.ndim
    spec[axis] = name
    return jax.lax.with_sharding_constraint(x, P(*spec))
