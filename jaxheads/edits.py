"""Edits as values: what a user can change in a run, built and checked before anything runs.

Every builder gives a `SiteEdit`: sites are its structure, all else (layer, head, position, example, amount, values) is
arrays. So edits can be stacked and `vmap`ped over, differentiated through, and one compilation serves them all.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from .models.inputs.batch import Batch
from .models.model import Model
from .models.sites import SiteEdit
from .models.stack import Stack

HeadList = Sequence[tuple[int, int]]
_HEAD_AXIS = {"q": 2, "k": 2, "v": 2, "z": 2, "scores": 1, "pattern": 1}
_POSITION_AXIS = {"scores": 2, "pattern": 2}


def mix(
    model: Model,
    site: str,
    source: ArrayLike,
    *,
    layers: int | Sequence[int],
    heads: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    examples: int | Sequence[int] | None = None,
    batch: Batch | None = None,
    amount: ArrayLike = 1.0,
) -> SiteEdit:
    """`(1 - amount) * x + amount * source` at a site: the edit that all others are cases of.

    Args:
        site: "z", "pattern", "resid_pre", …, with its stack's prefix where the model has several stacks.
        source: the replacement, with the site's axes at full rank (size 1 where it broadcasts), and a leading layer
            axis if there are several `layers`.
        layers: the layers to edit.
        heads: only these heads (key/value heads at `k` and `v`); all of them when left out.
        positions: only these positions, as indices into the padded batch (query positions at `scores` and
            `pattern`, key positions at `k` and `v`).
        examples: only these examples of the batch.
        batch: what the edit is for; needed with `positions` or `examples`, whose number it tells.
        amount: 0 leaves x as it is, 1 replaces it; may be traced.

    Raises:
        ValueError: for a site, layer or head that the model does not have, an empty selection, positions that are
            padding in every chosen example, or a source that is not finite.
    """
    where = _where(model, site, positions, examples, batch)
    return _edit(model, site, source, "mix", layers, heads, where, amount)


def steer(
    model: Model,
    site: str,
    vector: ArrayLike,
    *,
    layers: int | Sequence[int],
    heads: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    examples: int | Sequence[int] | None = None,
    batch: Batch | None = None,
    amount: ArrayLike = 1.0,
) -> SiteEdit:
    """`x + amount * vector` at a site; arguments and errors as in `mix`."""
    where = _where(model, site, positions, examples, batch)
    return _edit(model, site, vector, "add", layers, heads, where, amount)


def zero_heads(model: Model, heads: HeadList, *, stack: str | None = None, amount: ArrayLike = 1.0) -> SiteEdit:
    """Zero the output `z` of these (layer, head) pairs.

    Raises:
        ValueError: for an empty list, or a head that is not there.
    """
    part = model.stack(stack)
    chosen = _pairs(part, heads)
    return replace_heads(
        model, heads, jnp.zeros((len(np.unique(chosen[:, 0])), 1, 1, 1, 1)), stack=stack, amount=amount
    )


def replace_heads(
    model: Model, heads: HeadList, values: ArrayLike, *, stack: str | None = None, amount: ArrayLike = 1.0
) -> SiteEdit:
    """Replace the output `z` of these (layer, head) pairs by `values`.

    Args:
        values: one block for each *distinct* layer in `heads`, in ascending order: `[layers, B|1, T|1, N|1, H|1]`.

    Raises:
        ValueError: for an empty list, or a head that is not there.
    """
    part = model.stack(stack)
    chosen = _pairs(part, heads)
    layers, row = np.unique(chosen[:, 0], return_inverse=True)
    weight = np.zeros((len(layers), 1, 1, part.heads, 1), np.float32)
    weight[row, 0, 0, chosen[:, 1]] = 1
    return SiteEdit(
        jnp.asarray(layers),
        jnp.asarray(weight) * jnp.asarray(amount, jnp.float32),
        _finite("values", values),
        "z",
        part.name,
    )


def patch_heads(model: Model, heads: HeadList, seen: Mapping[str, Array], *, stack: str | None = None) -> SiteEdit:
    """Put the `z` of another run of the same shape (`run.seen`, captured with "z") into these (layer, head) pairs."""
    part = model.stack(stack)
    layers = np.unique(_pairs(part, heads)[:, 0])
    name = "z" if "z" in seen else f"{part.name}.z"
    if name not in seen:
        raise ValueError(f"patching needs the other run's z: run it with capture='z'; it has {sorted(seen)}")
    return replace_heads(model, heads, seen[name][layers], stack=stack)


def freeze(model: Model, site: str, values: ArrayLike, *, layers: Sequence[int] | None = None) -> SiteEdit:
    """Hold a site at the values of a run, `[L,…]` as captured: in all layers, or in `layers` only.

    Freezing "pattern" at the clean run's leaves later heads looking where they looked (Olsson et al. 2022,
    pattern-preserving ablation).
    """
    stack = model.stack(model.site(site)[0])
    chosen = np.arange(stack.layers) if layers is None else _within("layers", layers, stack.layers)
    values = jnp.asarray(values)
    if values.shape[0] != stack.layers:
        raise ValueError(f"values need a leading axis of all {stack.layers} layers, got shape {values.shape}")
    return mix(model, site, values[chosen], layers=chosen.tolist())


def gate(model: Model, gates_LN: ArrayLike, *, stack: str | None = None) -> SiteEdit:
    """Multiply every head's `z` by its gate, `[L,N]`: 1 leaves it, 0 removes it; differentiable."""
    part = model.stack(stack)
    gates_LN = jnp.asarray(gates_LN)
    if gates_LN.shape != (part.layers, part.heads):
        raise ValueError(f"gates must be [layers, heads] = {(part.layers, part.heads)}, got {gates_LN.shape}")
    weight = (1 - gates_LN)[:, None, None, :, None]
    return SiteEdit(jnp.arange(part.layers), weight, jnp.zeros((part.layers, 1, 1, 1, 1)), "z", part.name)


def _edit(
    model: Model,
    site: str,
    source: ArrayLike,
    operation: Literal["mix", "add"],
    layers: int | Sequence[int],
    heads: int | Sequence[int] | None,
    where: Array | None,
    amount: ArrayLike,
) -> SiteEdit:
    stack_name, site = model.site(site)
    stack = model.stack(stack_name)
    chosen = _within("layers", layers, stack.layers)
    values = _finite("source", source)
    values = values[None] if np.ndim(layers) == 0 else values
    rank = 1 + (4 if site in _HEAD_AXIS else 3)
    if values.ndim != rank or values.shape[0] != len(chosen):
        raise ValueError(
            f"source at {site} needs {rank - 1} axes, after one of {len(chosen)} layers if there are several; "
            f"got shape {np.shape(source)}"
        )
    weight = jnp.broadcast_to(jnp.asarray(amount, jnp.float32).reshape((1,) * rank), (len(chosen), *(1,) * (rank - 1)))
    if heads is not None:
        weight = weight * _one_hot_heads(stack, site, heads, rank)
    if where is not None:
        weight = weight * where[None]
    return SiteEdit(jnp.asarray(chosen), weight, values, site, stack_name, operation)


def _one_hot_heads(stack: Stack, site: str, heads: int | Sequence[int], rank: int) -> np.ndarray:
    if site not in _HEAD_AXIS:
        raise ValueError(f"the site {site} has no heads; leave heads out")
    count = stack.kv_heads if site in ("k", "v") else stack.heads
    shape = [1] * rank
    shape[1 + _HEAD_AXIS[site]] = count
    return np.isin(np.arange(count), _within("heads", heads, count)).astype(np.float32).reshape(shape)


def _where(
    model: Model,
    name: str,
    positions: int | Sequence[int] | None,
    examples: int | Sequence[int] | None,
    batch: Batch | None,
) -> Array | None:
    """1 at the chosen examples and positions, 0 elsewhere, with the site's axes; None if neither is restricted."""
    if positions is None and examples is None:
        return None
    if batch is None:
        raise ValueError("positions and examples are those of a batch: give it as batch=")
    stack, site = model.site(name)
    part = model.stack(stack)
    side = (part.keys if site in ("k", "v") else part.queries).of(batch)
    B, T = side.shape
    chosen_B = np.arange(B) if examples is None else _within("examples", examples, B)
    chosen_T = np.arange(T) if positions is None else _within("positions", positions, T)
    where_BT = np.zeros((B, T), np.float32)
    where_BT[np.ix_(chosen_B, chosen_T)] = 1
    if not (where_BT * np.asarray(side.mask)).any():
        raise ValueError(f"an edit at positions {chosen_T.tolist()} hits nothing: they are padding in every example")
    axes = [1] * (4 if site in _HEAD_AXIS else 3)
    axes[0], axes[_POSITION_AXIS.get(site, 1)] = B, T
    return jnp.asarray(where_BT.reshape(axes))


def _within(name: str, chosen: int | Sequence[int], count: int) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(chosen))
    if numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be at least one whole number, got {chosen!r}")
    if numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"{name} are 0..{count - 1}; an edit at {numbers.tolist()} hits nothing")
    if len(set(numbers.tolist())) < len(numbers):
        raise ValueError(f"{name} must each be named once, got {numbers.tolist()}")
    return numbers


def _pairs(stack: Stack, heads: HeadList) -> np.ndarray:
    pairs = np.asarray(heads)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"heads must be a list of at least one (layer, head) pair, got {heads!r}")
    limits = (stack.layers, stack.heads)
    for layer, head in pairs:
        if not (0 <= layer < limits[0] and 0 <= head < limits[1]):
            raise ValueError(
                f"head {(int(layer), int(head))} hits nothing: the {stack.name} has layers 0..{limits[0] - 1} "
                f"and heads 0..{limits[1] - 1}"
            )
    return pairs


def _finite(name: str, values: ArrayLike) -> Array:
    array = jnp.asarray(values)
    if not isinstance(array, Tracer) and not np.isfinite(np.asarray(array, np.float32)).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return array
