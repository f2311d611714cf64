"""Relevance from one backward pass, by the true derivative or by rules, and integrated over a path of them.

Dimension key: E examples, T positions, L layers, N heads, H head dimension, D model dimension.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch
from .backward_pass import EntryMix, Watch, entries
from .batch_objective import Attributions, BatchObjective
from .rules import Rules


def head_relevance(z_BTNH: Array, cotangent_BTNH: Array) -> Array:
    """Return each head's relevance `[B,N]`: value times cotangent, summed over its dimensions and all positions."""
    return (z_BTNH.astype(jnp.float32) * cotangent_BTNH.astype(jnp.float32)).sum(axis=(1, 3))


def value_and_cotangent(z_BTNH: Array, cotangent_BTNH: Array) -> tuple[Array, Array]:
    """Return both in float32."""
    return z_BTNH.astype(jnp.float32), cotangent_BTNH.astype(jnp.float32)


def propagate(objective: BatchObjective, rules: Rules | None, stack: str | None) -> Attributions:
    """Attribute by value times derivative, at each stream's entry and at the `z` of a stack.

    That is gradient × input (Shrikumar et al. 2017) without rules, layer-wise relevance propagation with them.
    """
    watch = () if stack is None else (Watch(stack, "z", head_relevance),)
    result = objective.backward(rules=rules, watch=watch)
    tokens = {
        name: np.asarray((result.entry[name] * gradient).sum(axis=-1)) for name, gradient in result.gradient.items()
    }
    return Attributions(np.asarray(result.value), tokens, np.moveaxis(result.read[0], 1, 0) if watch else None)


def integrate(
    objective: BatchObjective, baseline: Mapping[str, np.ndarray], steps: int, stack: str | None
) -> Attributions:
    """Attribute by integrated gradients from a baseline to the input, by the midpoint rule (Sundararajan et al. 2017).

    A position's relevance is `(x − x₀) · mean of ∂f/∂x` over the path; all positions' sum to f(x) − f(x₀), up to the
    rule's error. A head's is its conductance (Dhamdhere et al. 2019), the integral of `∂f/∂z dz`, by trapezoids over
    the midpoints and both ends.

    Args:
        baseline: by stream, x₀ at its entry, `[E,T,D]` or `[1,1,D]`.
        stack: whose heads; None for none.
    """
    watch = () if stack is None else (Watch(stack, "z", value_and_cotangent),)
    ends = (1.0, 0.0) if watch else ()
    shares = [*ends[:1], *(1 - (np.arange(steps) + 0.5) / steps), *ends[1:]]
    entry = objective.entries()
    gradients: dict[str, Any] = dict.fromkeys(entry, 0.0)
    heads: Any = 0.0
    before = None
    for share in shares:
        mixes = {
            name: EntryMix(baseline[name], np.full(x_BTD.shape[:2], share, np.float32)) for name, x_BTD in entry.items()
        }
        result = objective.mixed(mixes).backward(watch=watch)
        if 0 < share < 1:
            gradients = {name: gradients[name] + result.gradient[name] / steps for name in gradients}
        if watch:
            z, cotangent = result.read[0]
            if before is not None:
                heads = heads + ((cotangent + before[1]) / 2 * (z - before[0])).sum(axis=(2, 4))
            before = z, cotangent
    tokens = {
        name: ((x.astype(np.float32) - baseline[name]) * gradients[name]).sum(axis=-1) for name, x in entry.items()
    }
    return Attributions(objective.value(), tokens, np.moveaxis(np.asarray(heads), 1, 0) if watch else None)


def baseline_entries(objective: BatchObjective, baseline: Batch | int | None) -> dict[str, np.ndarray]:
    """Return by stream the entry of an empty input, `[E,T,D]` or `[1,1,D]` float32.

    Args:
        baseline: None for zeros; a token id, which replaces every token of the stream (at its position); or a whole
            batch of the same shape.

    Raises:
        ValueError: for an id where the model reads no tokens, or a batch of another shape or padding.
    """
    model, batch = objective.model, objective.batch
    if baseline is None:
        return {stack.name: np.zeros((1, 1, stack.width), np.float32) for stack in model.network.streams}
    other = _constant_tokens(model.name, batch, baseline) if isinstance(baseline, int) else baseline
    model.check(other)
    for stack in model.network.streams:
        ours, others = stack.queries.of(batch), stack.queries.of(other)
        if ours.shape != others.shape or not np.array_equal(np.asarray(ours.mask), np.asarray(others.mask)):
            raise ValueError(
                f"a baseline needs the batch's shape and padding: {ours.shape} in the {stack.name}, got "
                f"{others.shape} or other padding; give a token id, or replace tokens of the batch itself"
            )
    by_stream = entries(model.network, other)
    return {stream: objective.fetch(x_ETD).astype(np.float32) for stream, x_ETD in by_stream.items()}


def _constant_tokens(model: str, batch: Batch, token: int) -> Batch:
    """Return the batch with this token everywhere."""
    if batch.tokens is None:
        raise ValueError(f"a token id is no baseline for {model}, which reads no tokens; give None (zeros) or a batch")
    targets = None if batch.targets is None else jnp.full_like(batch.targets, token)
    tokens = jnp.full_like(batch.tokens, token)
    return Batch(tokens, batch.mask, batch.token_types, targets=targets, target_mask=batch.target_mask)
