"""Rules of tensors that hold heads, or the dimensions of a head, in an order of their own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from .weights import Arrays, Rule


def grouped_heads(name: str, queries: str, keys: str, values: str) -> Rule:
    """Map queries, keys and values (or biases) joined by key/value head, in K groups of N / K queries, a key, a value.

    Stored `[(N + 2*K)*H (,D)]`, used `[(D,) N, H]` and twice `[(D,) K, H]`.
    """

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        (N, H), K = shapes[0][-2:], shapes[1][-2]
        by_group = tensor.T.reshape(*tensor.shape[1:], K, N // K + 2, H)
        return by_group[..., :-2, :].reshape(shapes[0]), by_group[..., -2, :], by_group[..., -1, :]

    def write(q: Any, k: Any, v: Any) -> Any:
        join = np.concatenate if isinstance(q, np.ndarray) else jnp.concatenate
        (N, H), K = q.shape[-2:], k.shape[-2]
        by_group = q.reshape(*q.shape[:-2], K, N // K, H), k[..., None, :], v[..., None, :]
        return join(by_group, axis=-2).reshape(*q.shape[:-2], -1).T

    return Rule(name, (queries, keys, values), read, write)


def in_pairs(rule: Rule, dimensions: int, paths: Sequence[str] | None = None) -> Rule:
    """Map values of heads whose first dimensions rotate in pairs (2i, 2i+1) in the checkpoint.

    `Rotary` has the pairs (i, i + dimensions/2): queries and keys are reordered alike, which leaves scores unchanged.

    Args:
        rule: maps the values, whose last axis is the head's, in the checkpoint's order.
        paths: the parameters to reorder; all when left out.
    """
    chosen = [path in (rule.paths if paths is None else paths) for path in rule.paths]

    def ordered(values: Arrays, *, back: bool) -> Arrays:
        rest = np.arange(dimensions, values[0].shape[-1])
        order = np.concatenate([np.arange(0, dimensions, 2), np.arange(1, dimensions, 2), rest])
        order = np.argsort(order) if back else order
        return tuple(value[..., order] if pick else value for value, pick in zip(values, chosen, strict=True))

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        return ordered(rule.read(tensor, shapes), back=False)

    return replace(rule, read=read, write=lambda *values: rule.write(*ordered(values, back=True)))
