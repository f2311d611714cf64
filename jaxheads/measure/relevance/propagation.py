"""Relevance from one backward pass, by the true derivative or by rules, and integrated over a path of them.

Dimension key: E examples, T positions, L layers, N heads, H head dimension, D model dimension.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...checks import one_of
from ...models.inputs.batch import Batch
from ...models.layers import Embed
from ...models.network import Network
from .backward_pass import EntryMix, Watch, entries
from .batch_objective import Attributions, BatchObjective
from .rules import Rules

Baseline = Batch | int | Literal["mean", "zeros"]
"""An empty input, as `baseline_entries` takes it."""


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
    value, whole = objective.value(), {name: np.ones(x.shape[:2], np.float32) for name, x in entry.items()}
    at_baseline = objective.mixed({name: EntryMix(baseline[name], share) for name, share in whole.items()}).value()
    return Attributions(value, tokens, np.moveaxis(np.asarray(heads), 1, 0) if watch else None, value - at_baseline)


def baseline_entries(objective: BatchObjective, baseline: Baseline) -> dict[str, np.ndarray]:
    """Return by stream the entry of an empty input, `[E,T,D]` or `[1,1,D]` float32.

    Args:
        baseline: "mean": every token's embedding is the vocabulary's mean, at its position, and pixels and features are
            0, about their mean; "zeros": the entry itself is 0; a token id, which replaces every token of the stream
            (at its position); or a whole batch of the same shape.

    Raises:
        ValueError: for an id where the model reads no tokens, another word, or a batch of another shape or padding.
    """
    model, batch = objective.model, objective.batch
    if isinstance(baseline, str):
        one_of("baseline", baseline, ("mean", "zeros"))
    if isinstance(baseline, str) and baseline == "zeros":
        return {stack.name: np.zeros((1, 1, stack.width), np.float32) for stack in model.network.streams}
    if isinstance(baseline, str):
        by_stream = entries(_with_mean_embedding(model.network), _emptied(batch, 0))
        return {stream: objective.fetch(x_ETD).astype(np.float32) for stream, x_ETD in by_stream.items()}
    if not isinstance(baseline, Batch) and batch.tokens is None and batch.targets is None:
        raise ValueError(f"a token id is no baseline for {model.name}, which reads no tokens; give a batch, or none")
    other = baseline if isinstance(baseline, Batch) else _emptied(batch, baseline)
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


def _with_mean_embedding(network: Network) -> Network:
    """Return a network whose token 0 has the mean embedding of all tokens, and which has no other token."""
    mean = nnx.clone(network)
    for path, module in nnx.iter_modules(mean):
        if isinstance(module, Embed) and path[-1:] == ("embed",):
            table_VD = module.embedding[...]
            mean_1D = table_VD.astype(jnp.float32).mean(axis=0, keepdims=True)
            module.embedding = nnx.Param(mean_1D.astype(table_VD.dtype))
    return mean


def _emptied(batch: Batch, token: int) -> Batch:
    """Return the batch with this token everywhere, and pixels and features of 0."""
    tokens, targets, pixels, features = (
        None if field is None else np.full(field.shape, filler, field.dtype)
        for field, filler in ((batch.tokens, token), (batch.targets, token), (batch.pixels, 0), (batch.features, 0))
    )
    types = batch.token_types
    masks: Any = {"mask": batch.mask, "target_mask": batch.target_mask}
    return Batch(tokens, token_types=types, **masks, targets=targets, pixels=pixels, features=features)
