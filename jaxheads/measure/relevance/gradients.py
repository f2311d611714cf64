"""Relevance that comes from one way back, by the true derivative or by rules, and the sum over a path of them.

Dimension key: E examples, T positions, L layers, N heads, as everywhere; steps of a path are counted by a list.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch
from .backward import Moved, Question, Watch, entries
from .rules import Rules


class Shares(NamedTuple):
    """The objective `[E]`; by stream, each position's relevance `[E,T]`; each head's `[E,L,N]`, or None."""

    value: np.ndarray
    tokens: dict[str, np.ndarray]
    heads: np.ndarray | None


def of_heads(z_BTNH: Array, slope_BTNH: Array) -> Array:
    """A head's relevance `[B,N]`: the sum over its numbers, at all positions, of value times cotangent."""
    return (z_BTNH.astype(jnp.float32) * slope_BTNH.astype(jnp.float32)).sum(axis=(1, 3))


def both(z_BTNH: Array, slope_BTNH: Array) -> tuple[Array, Array]:
    """Values and cotangents as they are."""
    return z_BTNH.astype(jnp.float32), slope_BTNH.astype(jnp.float32)


def propagate(question: Question, rules: Rules | None, stack: str | None) -> Shares:
    """Value times derivative at the entry of each stream, and at the `z` of a stack: gradient × input (Shrikumar et al.
    2017) without rules, layer-wise relevance with them."""
    watch = () if stack is None else (Watch(stack, "z", of_heads),)
    parts = []
    for real, piece in question.pieces():
        found = piece.backward(rules=rules, watch=watch)
        tokens = {name: (found.entry[name] * slope).sum(axis=-1)[:real] for name, slope in found.slope.items()}
        heads = np.moveaxis(found.read[0], 1, 0)[:real] if watch else None
        parts.append(Shares(np.asarray(found.value)[:real], {k: np.asarray(v) for k, v in tokens.items()}, heads))
    return joined(parts)


def integrate(question: Question, base: Mapping[str, Array], steps: int, stack: str | None) -> Shares:
    """Integrated gradients (Sundararajan et al. 2017) from a base to the input, by the midpoint rule.

    A position's relevance is `(x − x₀) · mean of ∂f/∂x` over the way; all positions' sum to f(x) − f(x₀), up to what
    the rule misses. A head's is its conductance (Dhamdhere et al. 2019), the integral of `∂f/∂z dz`, by trapezoids over
    the same points and both ends.
    """
    watch = () if stack is None else (Watch(stack, "z", both),)
    beside = 0
    if stack is not None:
        part = question.model.stack(stack)
        beside = 4 * part.heads * part.head_size * part.queries.count(question.batch)
    shapes = {one.name: one.queries.of(question.batch).shape for one in question.model.network.streams}
    whole = question.moving({name: Moved(one, jnp.ones(shapes[name])) for name, one in base.items()})
    return joined([_integrate_piece(piece, real, steps, watch) for real, piece in whole.pieces(beside)])


def _integrate_piece(piece: Question, real: int, steps: int, watch: tuple[Watch, ...]) -> Shares:
    ends = (1.0, 0.0) if watch else ()
    shares = [*ends[:1], *(1 - (np.arange(steps) + 0.5) / steps), *ends[1:]]
    start = entries(piece.model.network, piece.batch)
    slopes: dict[str, Any] = dict.fromkeys(start, 0.0)
    heads: Any = 0.0
    before = None
    for share in shares:
        moved = {name: Moved(base, jnp.full_like(way, share)) for name, (base, way) in piece.moved.items()}
        found = piece.moving(moved).backward(watch=watch)
        if 0 < share < 1:
            slopes = {name: slopes[name] + found.slope[name] / steps for name in slopes}
        if watch:
            z, slope = found.read[0]
            if before is not None:
                heads = heads + ((slope + before[1]) / 2 * (z - before[0])).sum(axis=(2, 4))
            before = z, slope
    tokens = {
        name: ((np.asarray(x, np.float32) - np.asarray(piece.moved[name].base, np.float32)) * slopes[name]).sum(axis=-1)
        for name, x in start.items()
    }
    value = piece.moving({}).value()
    return Shares(
        value[:real],
        {name: one[:real] for name, one in tokens.items()},
        np.moveaxis(np.asarray(heads), 1, 0)[:real] if watch else None,
    )


def base_of(question: Question, baseline: Batch | int | None) -> dict[str, Array]:
    """By stream, what an empty input's first layer would read, `[E,T,D]` or `[1,1,D]`.

    Args:
        baseline: None for zeros; a token id, which every token of the stream is replaced by (at its position); or a
            whole batch of the same shape.

    Raises:
        ValueError: for an id where the model reads no tokens, or a batch of another shape or padding.
    """
    model, batch = question.model, question.batch
    if baseline is None:
        return {stack.name: jnp.zeros((1, 1, stack.width)) for stack in model.network.streams}
    other = _filled(model.name, batch, baseline) if isinstance(baseline, int) else baseline
    model.check(other)
    for stack in model.network.streams:
        own, its = stack.queries.of(batch), stack.queries.of(other)
        if own.shape != its.shape or not np.array_equal(np.asarray(own.mask), np.asarray(its.mask)):
            raise ValueError(
                f"a baseline needs the batch's shape and padding: {own.shape} in the {stack.name}, got {its.shape} or "
                "other padding; give a token id, or replace tokens of the batch itself"
            )
    return entries(model.network, other)


def _filled(model: str, batch: Batch, token: int) -> Batch:
    """The batch with this token everywhere."""
    if batch.tokens is None:
        raise ValueError(f"a token id is no baseline for {model}, which reads no tokens; give None (zeros) or a batch")
    targets = None if batch.targets is None else jnp.full_like(batch.targets, token)
    tokens = jnp.full_like(batch.tokens, token)
    return Batch(tokens, batch.mask, batch.token_types, targets=targets, target_mask=batch.target_mask)


def joined(parts: list[Shares]) -> Shares:
    """Of all pieces, one after the other."""
    heads = None if parts[0].heads is None else np.concatenate([np.asarray(part.heads) for part in parts])
    tokens = {name: np.concatenate([part.tokens[name] for part in parts]) for name in parts[0].tokens}
    return Shares(np.concatenate([part.value for part in parts]), tokens, heads)
