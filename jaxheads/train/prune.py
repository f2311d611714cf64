"""Pruning of heads: orders of removal, their cost, and the smaller model.

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

from ..arguments import among, checked
from ..checks import all_finite
from ..edits import gate, head_pairs
from ..models.disentangled import DisentangledAttention
from ..models.inputs.batch import Batch
from ..models.layers import JointRMSNorm, PerHeadLayerNorm
from ..models.model import Model
from ..models.network import Network, forward
from ..models.removed_heads import HEADS, head_shape, set_key_heads
from ..models.stack import Stack
from ..programs import compiled
from .monitor import ablation_losses
from .objective import Sample, scores

OF_ALL_HEADS = (JointRMSNorm, PerHeadLayerNorm)
"""Norms of queries or keys with a part for each head."""

Heads = Sequence[tuple[int, int]]


@checked()
def head_importance(network: Network, sample: Sample, stack: str | None = None) -> Array:
    """Return |∂ loss / ∂ gate| of every head, averaged over examples, `[L,N]` (Michel et al. 2019, equation 2)."""
    model = Model(network)
    chosen = model.stack(stack)

    def gradient_size(example: Sample) -> Array:
        single = jax.tree.map(lambda field: field[None], example)

        def loss(gates_LN: Array) -> Array:
            return scores(network, single, (gate(model, gates_LN, stack=chosen.name),))[0]

        return jnp.abs(jax.grad(loss)(jnp.ones((chosen.layers, chosen.heads))))

    return jax.lax.map(gradient_size, sample).mean(axis=0)


@checked(method=among(("importance", "ablation", "random")))
def pruning_order(network: Network, sample: Sample, method: str, *, stack: str | None = None, seed: int = 0) -> Heads:
    """Return the heads in order of removal, the least needed first.

    Args:
        method: "importance" (Michel et al. 2019, each layer divided by its ℓ2 norm), "ablation" (the loss without each
            head), "random".

    Raises:
        ValueError: for another method.
    """
    if method == "importance":
        raw_LN = np.asarray(jax.jit(head_importance, static_argnums=2)(network, sample, stack))
        needed_LN = raw_LN / np.maximum(np.linalg.norm(raw_LN, axis=1, keepdims=True), 1e-20)
    elif method == "ablation":
        needed_LN = np.asarray(jax.jit(ablation_losses, static_argnums=2)(network, sample, stack))
    else:
        chosen = Model(network).stack(stack)
        needed_LN = np.random.default_rng(seed).random((chosen.layers, chosen.heads))
    order = np.argsort(needed_LN, axis=None, kind="stable")
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, needed_LN.shape), strict=True)]


@checked()
def pruning_curve(network: Network, sample: Sample, order: Heads, *, stack: str | None = None) -> pd.DataFrame:
    """Tabulate loss and accuracy without the first 0, 1, 2, … heads of an order: columns heads, loss, accuracy."""
    chosen = Model(network).stack(stack)
    order = head_pairs("order", chosen, order).tolist() if len(order) else []
    gates_GLN = np.ones((len(order) + 1, chosen.layers, chosen.heads), np.float32)
    for count, (layer, head) in enumerate(order, 1):
        gates_GLN[count:, layer, head] = 0
    loss, accuracy = gated_scores(network, sample, jnp.asarray(gates_GLN), stack=chosen.name)
    columns = {"heads": np.arange(len(gates_GLN)), "loss": np.asarray(loss), "accuracy": np.asarray(accuracy)}
    return pd.DataFrame(columns)


@checked()
@partial(compiled, static_argnames="stack")
def gated_scores(network: Network, sample: Sample, gates_GLN: Array, *, stack: str) -> tuple[Array, Array]:
    """Return loss and accuracy for each set of gates on a stack's heads, `[G]` both."""
    model = Model(network)
    return jax.lax.map(lambda gates_LN: scores(network, sample, (gate(model, gates_LN, stack=stack),)), gates_GLN)


@checked()
def remove_heads(model: Model, gates: Mapping[str, ArrayLike] | ArrayLike, batch: Batch | None = None) -> Model:
    """Return a smaller model that equals this one with its heads' outputs multiplied by `gates`.

    Query heads whose gate is 0 are removed, and a key/value head with the last query head that reads it. If the groups
    that are left differ in size, the attention's `key_heads` maps query heads to key/value heads. Heads keep their
    order. Layers of a stack keep one number of heads (their weights are stacked), that of the layer that keeps most;
    superfluous heads of other layers write zeros. Gates between 0 and 1 become part of W_O. `head_savings` tabulates
    what is saved; `to_orbax` writes the smaller model.

    Args:
        gates: by stack `[L,N]`, or those of the only stack.
        batch: check on these inputs that the smaller model equals the gated one, to 1e-4.

    Raises:
        ValueError: for gates that do not fit, layers that share weights, or what has a part for each head and would be
            torn from it: position biases (T5, BLOOM, MPNet), norms of all heads' queries (OLMo 2, StableLM),
            projections of positions (DeBERTa 1 and 2).
    """
    by_stack = dict(gates) if isinstance(gates, Mapping) else {model.stack().name: gates}
    if not by_stack:
        raise ValueError("gates must be those of at least one stack, got none")
    network = nnx.clone(model.network)  # with variables of its own: training the copy leaves the model as it is
    for name, stack_gates in by_stack.items():
        all_finite(f"gates of {name}", stack_gates)
        stack, gates_LN = network.stack(model.stack(name).name), np.asarray(stack_gates, np.float32)
        if gates_LN.shape != (stack.layers, stack.heads):
            raise ValueError(f"gates of {name}: expected {[stack.layers, stack.heads]}, got {list(gates_LN.shape)}")
        if stack.sharing is not None:
            raise ValueError(f"the layers of {name} share their weights: a head can't be taken from one of them")
        _check_norms(stack)
        _shrink(stack, gates_LN)
    shapes = {stack.name: head_shape(stack) for stack in network.stacks}
    smaller = replace(
        model,
        network=network,
        name=f"{model.name}, pruned",
        hf_config=None if model.hf_config is None else {**model.hf_config, HEADS: shapes},
        identity=lambda: f"{model.identity()}, heads removed",
    )
    if batch is not None:
        _check_equal(model, smaller, by_stack, batch)
    return smaller


@checked()
def head_savings(model: Model, smaller: Model) -> pd.DataFrame:
    """Tabulate what `remove_heads` saved: a row a stack, with heads of a layer and parameters before and after.

    Columns: heads, heads_left, kv_heads, kv_heads_left, parameters, parameters_left, saved (the share of the stack's
    attention parameters).
    """
    rows = {}
    for name, stack in model.stacks.items():
        before, after = stack.blocks.attention, smaller.stack(name).blocks.attention
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part, nnx.Param))) for part in (before, after)]
        numbers = [attention[...].shape[2] for part in (before, after) for attention in (part.W_Q, part.W_K)]
        rows[name] = [numbers[0], numbers[2], numbers[1], numbers[3], *sizes, 1 - sizes[1] / sizes[0]]
    columns = ["heads", "heads_left", "kv_heads", "kv_heads_left", "parameters", "parameters_left", "saved"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("stack")


def _check_norms(stack: Any) -> None:
    """Raise ValueError for a norm of queries or keys that one head's removal would change for the others.

    Also for heads whose positions have projections of their own (DeBERTa 1 and 2), which are not cut.
    """
    if getattr(stack.blocks.attention, "own", ()):
        raise ValueError(
            f"the heads of the {stack.name} project positions by weights of their own, which removal does not cut. "
            "Take heads' outputs away with jh.gate or jh.zero_heads"
        )
    for kind, norm in (("queries", stack.blocks.attention.q_norm), ("keys", stack.blocks.attention.k_norm)):
        if isinstance(norm, OF_ALL_HEADS):
            raise ValueError(
                f"the {stack.name} norms the {kind} of all heads by one norm: a head can't be taken from it. Take "
                "heads' outputs away with jh.gate or jh.zero_heads"
            )


def _take(parameter: Any, heads: np.ndarray, axis: int) -> Array:
    """Take heads, numbered `[L,n]`, along an axis of a stacked weight."""
    weight = parameter[...]
    index = np.expand_dims(heads, [other for other in range(1, weight.ndim) if other != axis])
    return jnp.take_along_axis(weight, jnp.asarray(index), axis=axis)


def _shrink(stack: Stack, gates_LN: np.ndarray) -> None:
    """Cut a stack's attention weights, in place, to the heads whose gates are not 0."""
    attention: Any = stack.blocks.attention
    needed_LN, reads_LN = gates_LN != 0, stack.group_of_heads
    L, K = len(reads_LN), attention.W_K.shape[2]
    needed_LK = np.stack(
        [np.isin(np.arange(K), reads[needed]) for reads, needed in zip(reads_LN, needed_LN, strict=True)]
    )
    # What is needed comes first, in its order; other heads fill up the layers that need fewer, and write zeros.
    kept_LK = np.argsort(~needed_LK, axis=1, kind="stable")[:, : max(1, needed_LK.sum(axis=1).max())]
    kept_LN = np.argsort(~needed_LN, axis=1, kind="stable")[:, : max(1, needed_LN.sum(axis=1).max())]
    regular = _regular(needed_LN, reads_LN, kept_LK)
    if regular is not None and regular.shape[1] <= kept_LN.shape[1]:
        kept_LN = regular
    kept_reads_LN = np.take_along_axis(reads_LN, kept_LN, axis=1)
    same_LNK = kept_reads_LN[:, :, None] == kept_LK[:, None]
    for name, heads, axis in (("W_Q", kept_LN, 2), ("W_O", kept_LN, 1), ("W_K", kept_LK, 2), ("W_V", kept_LK, 2)):
        setattr(attention, name, nnx.Param(_take(getattr(attention, name), heads, axis)))
    for name, heads in (("b_Q", kept_LN), ("sinks", kept_LN), ("b_K", kept_LK), ("b_V", kept_LK)):
        if getattr(attention, name) is not None:
            setattr(attention, name, nnx.Param(_take(getattr(attention, name), heads, 1)))
    # Selected, not multiplied: what a head overflows with is gone with it. A superfluous head reads values of 0.
    empty_LK = ~np.take_along_axis(needed_LK, kept_LK, axis=1)
    for name in ("W_V", "b_V"):
        if (weight := getattr(attention, name)) is not None:
            empty = empty_LK.reshape(L, *(1,) * (weight.ndim - 3), -1, 1)
            setattr(attention, name, nnx.Param(jnp.where(empty, jnp.zeros_like(weight[...]), weight[...])))
    weights = np.take_along_axis(gates_LN, kept_LN, axis=1)
    attention.W_O[...] = attention.W_O[...] * jnp.asarray(weights)[:, :, None, None].astype(attention.W_O[...].dtype)
    attention.key_heads = None
    set_key_heads(attention, np.argmax(same_LNK, axis=2))


def _regular(needed_LN: np.ndarray, reads_LN: np.ndarray, kept_LK: np.ndarray) -> np.ndarray | None:
    """Return heads to keep, `[L,n]`, as many for each key/value head; None where one of these has too few readers."""
    of_LKN = reads_LN[:, None] == kept_LK[:, :, None]
    most = max(1, int((of_LKN & needed_LN[:, None]).sum(axis=2).max()))
    if (of_LKN.sum(axis=2) < most).any():
        return None
    # Readers that are needed come first, then other readers, then heads of other groups.
    order_LKN = np.argsort(np.where(of_LKN, ~needed_LN[:, None], 2), axis=2, kind="stable")[:, :, :most]
    return np.sort(order_LKN, axis=2).reshape(len(needed_LN), -1)


def _check_equal(model: Model, smaller: Model, gates: Mapping[str, Any], batch: Batch) -> None:
    """Raise ValueError unless the smaller model's output equals that of the model with gates, to 1e-4."""
    edits = tuple(gate(model, jnp.asarray(value, jnp.float32), stack=name) for name, value in gates.items())

    def output(network: Network, edits: Any) -> Array:
        return network.output(forward(network, batch, edits)[0], batch)

    expected = jax.jit(output)(model.network, edits)
    try:
        actual = jax.jit(output)(smaller.network, ())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"heads of {model.name} can't be removed: something else has one part for each head, as biases of "
            f"positions do ({error})"
        ) from error
    difference = float(jnp.abs(actual - expected).max()) / max(1.0, float(jnp.abs(expected).max()))
    if not difference < 1e-4:
        raise ValueError(
            f"the smaller model's output differs (by {difference:.2g}): its heads are not free to be removed"
        )


@checked()
def merge_kv_heads(model: Model, groups: ArrayLike, *, stack: str | None = None) -> Model:
    """Return a model in which each group of key/value heads is one: the mean of their W_K, W_V and biases.

    Ainsworth et al. 2023, section 2.1. Merging equal heads changes nothing.

    Args:
        groups: the group of each layer's key/value heads, `[L,K]`, numbered from 0, all of one size: query heads are
            put in the order of their groups.

    Raises:
        ValueError: for groups of different sizes, or of another shape, or norms of keys with a part for each head.
    """
    old = model.stack(stack)
    if isinstance(old.blocks.attention.k_norm, OF_ALL_HEADS):
        raise ValueError(f"the {old.name} norms the keys of all heads by one norm: merged keys would have another")
    if isinstance(old.blocks.attention, DisentangledAttention):
        raise ValueError(f"the {old.name} compares keys with the positions of each head: its key heads can't be merged")
    groups_LK = _checked_groups(groups, old.layers, old.kv_heads)
    if old.blocks.attention.key_heads is not None:
        raise ValueError(f"groups of the {old.name} differ in size since heads were removed: merge before you remove")
    K, size, R = old.kv_heads, int((groups_LK[0] == 0).sum()), old.heads // old.kv_heads
    network = nnx.clone(model.network)
    attention = network.stack(old.name).blocks.attention
    order_LK = np.argsort(groups_LK, axis=1, kind="stable")
    order_LN = (order_LK[:, :, None] * R + np.arange(R)).reshape(old.layers, -1)

    def merged(parameter: Any, axis: int) -> Array:
        x = _take(parameter, order_LK, axis)
        return x.reshape(*x.shape[:axis], K // size, size, *x.shape[axis + 1 :]).mean(axis=axis + 1)

    for name, axis in (("W_Q", 2), ("W_O", 1), ("b_Q", 1), ("sinks", 1)):
        if getattr(attention, name) is not None:
            setattr(attention, name, nnx.Param(_take(getattr(attention, name), order_LN, axis)))
    for name, axis in (("W_K", 2), ("W_V", 2), ("b_K", 1), ("b_V", 1)):
        if getattr(attention, name) is not None:
            setattr(attention, name, nnx.Param(merged(getattr(attention, name), axis)))
    return replace(model, network=network, name=f"{model.name}, key/value heads merged", hf_config=None)


def _checked_groups(groups: ArrayLike, layers: int, kv_heads: int) -> np.ndarray:
    groups_LK = np.asarray(groups)
    if groups_LK.shape != (layers, kv_heads) or not np.issubdtype(groups_LK.dtype, np.integer):
        raise ValueError(
            f"groups: expected whole numbers {[layers, kv_heads]}, got {groups_LK.dtype} of shape "
            f"{list(groups_LK.shape)}"
        )
    sizes = [np.bincount(row, minlength=int(groups_LK.max()) + 1) for row in groups_LK]
    if sizes[0][0] == 0 or any((counts != sizes[0][0]).any() for counts in sizes):
        raise ValueError(f"groups must all have one size, in every layer; got sizes {[c.tolist() for c in sizes]}")
    return groups_LK
