"""Taking heads away for good: in which order, what it costs, and the smaller model.

Dimension key: L layers, N query heads, K key/value heads, R = N / K, H head dimension, D model dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike

from ..edits import gate
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward
from .monitor import ablation_losses
from .objective import Sample, scores

Heads = Sequence[tuple[int, int]]


def head_importance(network: Network, sample: Sample, stack: str | None = None) -> Array:
    """|∂ loss / ∂ gate| of every head, example by example averaged, `[L,N]` (Michel et al. 2019, equation 2)."""
    [part] = [one for one in network.stacks if stack in (None, one.name)]
    model = Model(network)

    def one(example: Sample) -> Array:
        alone = jax.tree.map(lambda field: field[None], example)

        def lost(gates_LN: Array) -> Array:
            return scores(network, alone, (gate(model, gates_LN, stack=part.name),))[0]

        return jnp.abs(jax.grad(lost)(jnp.ones((part.layers, part.heads))))

    return jax.lax.map(one, sample).mean(axis=0)


def pruning_order(network: Network, sample: Sample, method: str, *, stack: str | None = None, seed: int = 0) -> Heads:
    """Heads in the order in which they are taken away, the least needed first.

    Args:
        method: "importance" (Michel et al. 2019: layer by layer divided by its ℓ2 norm), "ablation" (the loss without
            each), "random".

    Raises:
        ValueError: for another method.
    """
    if method == "importance":
        raw_LN = np.asarray(jax.jit(head_importance, static_argnums=2)(network, sample, stack))
        needed_LN = raw_LN / np.maximum(np.linalg.norm(raw_LN, axis=1, keepdims=True), 1e-20)
    elif method == "ablation":
        needed_LN = np.asarray(jax.jit(ablation_losses, static_argnums=2)(network, sample, stack))
    elif method == "random":
        [part] = [one for one in network.stacks if stack in (None, one.name)]
        needed_LN = np.random.default_rng(seed).random((part.layers, part.heads))
    else:
        raise ValueError(f"heads are ordered by importance, ablation or random; got {method!r}")
    order = np.argsort(needed_LN, axis=None, kind="stable")
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, needed_LN.shape), strict=True)]


def pruning_curve(network: Network, sample: Sample, order: Heads, *, stack: str | None = None) -> pd.DataFrame:
    """Loss and accuracy with the first 0, 1, 2, … heads of an order taken away: columns heads, loss, accuracy."""
    [part] = [one for one in network.stacks if stack in (None, one.name)]
    gates = np.ones((len(order) + 1, part.layers, part.heads), np.float32)
    for count, (layer, head) in enumerate(order, 1):
        gates[count:, layer, head] = 0
    loss, right = gated_scores(network, sample, jnp.asarray(gates), stack=part.name)
    columns = {"heads": np.arange(len(gates)), "loss": np.asarray(loss), "accuracy": np.asarray(right)}
    return pd.DataFrame(columns)


@partial(jax.jit, static_argnames="stack")
def gated_scores(network: Network, sample: Sample, gates_GLN: Array, *, stack: str) -> tuple[Array, Array]:
    """Loss and accuracy with each set of gates on a stack's heads, `[G]` both."""
    model = Model(network)
    return jax.lax.map(lambda gates_LN: scores(network, sample, (gate(model, gates_LN, stack=stack),)), gates_GLN)


def remove_heads(model: Model, gates: Mapping[str, ArrayLike] | ArrayLike, batch: Batch | None = None) -> Model:
    """A smaller model that computes what this one does with its heads' outputs multiplied by `gates`.

    Heads whose gate is 0 are gone, with their key/value head where all that read it are. Layers of a stack keep one
    number of heads (their weights are stacked): that of the layer that keeps most; elsewhere what is left over writes
    nothing. Gates between 0 and 1 become part of W_O.

    Args:
        gates: by stack `[L,N]`, or of the only stack.
        batch: if given, the smaller model is run on it, and must give what the gated one gives, to 1e-4.

    Raises:
        ValueError: for gates that do not fit, layers that keep none, or positions whose biases are each head's own (T5,
            BLOOM, MPNet), which removal would tear from their heads.
    """
    by_stack = dict(gates) if isinstance(gates, Mapping) else {model.stack().name: gates}
    network = nnx.merge(*nnx.split(model.network))  # a copy: what follows replaces its weights
    stacks = {stack.name: stack for stack in network.stacks}
    for name, given in by_stack.items():
        stack, gates_LN = stacks[model.stack(name).name], np.asarray(given, np.float32)
        if gates_LN.shape != (stack.layers, stack.heads):
            raise ValueError(f"gates of {name}: expected {[stack.layers, stack.heads]}, got {list(gates_LN.shape)}")
        if stack.sharing is not None:
            raise ValueError(f"the layers of {name} share their weights: a head can't be taken from one of them")
        _shrink(stack.blocks.attention, gates_LN, stack.kv_heads)
    smaller = replace(
        model,
        network=network,
        name=f"{model.name}, pruned",
        hf_config=None,
        identity=lambda: f"{model.identity()}, heads removed",
    )
    if batch is not None:
        _same(model, smaller, by_stack, batch)
    return smaller


def _shrink(attention: Any, gates_LN: np.ndarray, kv_heads: int) -> None:
    L, N = gates_LN.shape
    R = N // kv_heads
    needed_LK = (gates_LN.reshape(L, kv_heads, R) != 0).any(axis=2)
    most = max(1, int(needed_LK.sum(axis=1).max()))
    kept_LK = np.argsort(~needed_LK, axis=1, kind="stable")[:, :most]  # needed ones first, then others to fill up
    kept_LN = (kept_LK[:, :, None] * R + np.arange(R)).reshape(L, -1)

    def of(parameter: Any, kept: np.ndarray, axis: int) -> Any:
        index = np.expand_dims(kept, [one for one in range(1, parameter[...].ndim) if one != axis])
        return nnx.Param(jnp.take_along_axis(parameter[...], jnp.asarray(index), axis=axis))

    attention.W_Q, attention.W_O = of(attention.W_Q, kept_LN, 2), of(attention.W_O, kept_LN, 1)
    attention.W_K, attention.W_V = of(attention.W_K, kept_LK, 2), of(attention.W_V, kept_LK, 2)
    for name, kept in (("b_Q", kept_LN), ("b_K", kept_LK), ("b_V", kept_LK)):
        if getattr(attention, name) is not None:
            setattr(attention, name, of(getattr(attention, name), kept, 1))
    weights = np.take_along_axis(gates_LN, kept_LN, axis=1)
    attention.W_O[...] = attention.W_O[...] * jnp.asarray(weights)[:, :, None, None].astype(attention.W_O[...].dtype)


def _same(model: Model, smaller: Model, gates: Mapping[str, Any], batch: Batch) -> None:
    edits = tuple(gate(model, jnp.asarray(value, jnp.float32), stack=name) for name, value in gates.items())

    def output(network: Network, edits: Any) -> Array:
        return network.output(forward(network, batch, edits)[0], batch)

    expected = jax.jit(output)(model.network, edits)
    try:
        found = jax.jit(output)(smaller.network, ())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"heads of {model.name} can't be removed: something else has one part for each head, as biases of "
            f"positions do ({error})"
        ) from error
    away = float(jnp.abs(found - expected).max()) / max(1.0, float(jnp.abs(expected).max()))
    if not away < 1e-4:
        raise ValueError(
            f"the smaller model gives something else (by {away:.2g}): its heads are not free to be removed"
        )


def merge_kv_heads(model: Model, groups: ArrayLike, *, stack: str | None = None) -> Model:
    """A model in which groups of key/value heads have become one: the mean of their W_K, W_V and biases (Ainsworth et
    al. 2023, section 2.1). Merging heads that are alike changes nothing.

    Args:
        groups: for each layer the group of each key/value head, `[L,K]`, numbered from 0, all groups of one size: query
            heads are put in the order of their groups.

    Raises:
        ValueError: for groups of different sizes, or of another shape.
    """
    part, given = model.stack(stack), np.asarray(groups)
    L, K = part.layers, part.kv_heads
    if given.shape != (L, K) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"groups: expected whole numbers {[L, K]}, got {given.dtype} of shape {list(given.shape)}")
    counts = [np.bincount(row, minlength=int(given.max()) + 1) for row in given]
    size = int(counts[0][0])
    if size == 0 or any((count != size).any() for count in counts):
        raise ValueError(f"groups must all have one size, in every layer; got sizes {[c.tolist() for c in counts]}")
    network = nnx.merge(*nnx.split(model.network))
    [stack_] = [one for one in network.stacks if one.name == part.name]
    attention, R = stack_.blocks.attention, part.heads // K
    order_LK = np.argsort(given, axis=1, kind="stable")
    order_LN = (order_LK[:, :, None] * R + np.arange(R)).reshape(L, -1)

    def moved(parameter: Any, order: np.ndarray, axis: int) -> Array:
        index = np.expand_dims(order, [one for one in range(1, parameter[...].ndim) if one != axis])
        return jnp.take_along_axis(parameter[...], jnp.asarray(index), axis=axis)

    def merged(parameter: Any, axis: int) -> Array:
        x = moved(parameter, order_LK, axis)
        return x.reshape(*x.shape[:axis], K // size, size, *x.shape[axis + 1 :]).mean(axis=axis + 1)

    attention.W_Q, attention.W_O = (
        nnx.Param(moved(attention.W_Q, order_LN, 2)),
        nnx.Param(moved(attention.W_O, order_LN, 1)),
    )
    attention.W_K, attention.W_V = nnx.Param(merged(attention.W_K, 2)), nnx.Param(merged(attention.W_V, 2))
    if attention.b_Q is not None:
        attention.b_Q = nnx.Param(moved(attention.b_Q, order_LN, 1))
    for name in ("b_K", "b_V"):
        if getattr(attention, name) is not None:
            setattr(attention, name, nnx.Param(merged(getattr(attention, name), 1)))
    return replace(model, network=network, name=f"{model.name}, key/value heads merged", hf_config=None)
