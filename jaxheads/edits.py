"""Edits of a run as values, built and checked before anything runs.

Every function returns a `SiteEdit`. Its site is static, all else (layer, head, position, example, amount, values) is
arrays, so edits can be stacked, `vmap`ped over and differentiated through, and one compilation serves them all.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import at_least, checked
from .checks import all_finite
from .models.inputs.batch import Batch
from .models.model import Model
from .models.sites import SITES, SiteEdit, has_heads, is_of_keys
from .models.stack import Stack

HeadList = Sequence[tuple[int, int]]
"""(layer, head) pairs."""


@checked()
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
    """Edit a site's value `x` to `(1 - amount) * x + amount * source`, the general form of most edits.

    Args:
        site: "z", "pattern", "resid_pre", …, with its stack's prefix where the model has several stacks.
        source: the replacement, with the site's axes at full rank (size 1 where it broadcasts), and a leading layer
            axis if there are several `layers`.
        layers: the layers to edit.
        heads: the heads to edit (key/value heads at `k` and `v`); all of them when left out.
        positions: the positions to edit, as indices into the padded batch (query positions at `scores` and
            `pattern`, key positions at `k` and `v`); all of them when left out.
        examples: the examples to edit; all of them when left out.
        batch: the batch to edit, needed with `positions` or `examples`.
        amount: 0 leaves `x` as it is, 1 replaces it; may be traced.

    Raises:
        ValueError: for a site, layer or head that the model does not have, an empty selection, positions that are
            padding in every chosen example, or a source that is not finite.
    """
    mask = _selection(model, site, positions, examples, batch)
    return _edit(model, site, source, "mix", layers, heads, mask, amount)


@checked()
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
    """Edit a site's value `x` to `x + amount * vector`; arguments and errors as in `mix`."""
    mask = _selection(model, site, positions, examples, batch)
    return _edit(model, site, vector, "add", layers, heads, mask, amount)


@checked()
def zero_heads(model: Model, heads: HeadList, *, stack: str | None = None, amount: ArrayLike = 1.0) -> SiteEdit:
    """Zero the output `z` of these (layer, head) pairs.

    Raises:
        ValueError: for an empty list, or a head that is not there.
    """
    layers = np.unique(head_pairs("heads", model.stack(stack), heads)[:, 0])
    return replace_heads(model, heads, jnp.zeros((len(layers), 1, 1, 1, 1)), stack=stack, amount=amount)


@checked()
def replace_heads(
    model: Model, heads: HeadList, values: ArrayLike, *, stack: str | None = None, amount: ArrayLike = 1.0
) -> SiteEdit:
    """Replace the output `z` of these (layer, head) pairs by `values`.

    Args:
        values: one block for each *distinct* layer in `heads`, in ascending order: `[layers, B|1, T|1, N|1, H|1]`.

    Raises:
        ValueError: for an empty list, or a head that is not there.
    """
    edited_stack = model.stack(stack)
    pairs = head_pairs("heads", edited_stack, heads)
    layers, row = np.unique(pairs[:, 0], return_inverse=True)
    weight = np.zeros((len(layers), 1, 1, edited_stack.heads, 1), np.float32)
    weight[row, 0, 0, pairs[:, 1]] = 1
    return SiteEdit(
        jnp.asarray(layers),
        jnp.asarray(weight) * _amount(amount),
        _finite("values", values),
        "z",
        edited_stack.name,
    )


@checked()
def patch_heads(model: Model, heads: HeadList, seen: Mapping[str, Array], *, stack: str | None = None) -> SiteEdit:
    """Replace the output `z` of these (layer, head) pairs by that of another run.

    Args:
        seen: `run.seen` of a run on a batch of equal shape, captured with "z".

    Raises:
        ValueError: for an empty list, a head that is not there, or a run without `z`.
    """
    edited_stack = model.stack(stack)
    layers = np.unique(head_pairs("heads", edited_stack, heads)[:, 0])
    name = "z" if "z" in seen else f"{edited_stack.name}.z"
    if name not in seen:
        raise ValueError(f"patching needs the other run's z: run it with capture='z'; it has {sorted(seen)}")
    z_LBTNH = _of_all_layers("seen", seen[name], edited_stack)
    return replace_heads(model, heads, z_LBTNH[layers], stack=stack)


@checked()
def freeze(model: Model, site: str, values: ArrayLike, *, layers: Sequence[int] | None = None) -> SiteEdit:
    """Freeze a site at the values of a run, `[L,…]` as captured, in all layers or only in `layers`.

    With "pattern" of the clean run, later heads keep their attention pattern (Olsson et al. 2022, pattern-preserving
    ablation).

    Raises:
        ValueError: for a site or layer that the model does not have, or values without an axis of all layers.
    """
    stack = model.stack(model.site(site)[0])
    chosen = np.arange(stack.layers) if layers is None else _indices("layers", layers, stack.layers)
    values = _of_all_layers("values", values, stack)
    return mix(model, site, values[chosen], layers=chosen.tolist())


@checked()
def gate(model: Model, gates_LN: ArrayLike, *, stack: str | None = None) -> SiteEdit:
    """Multiply every head's `z` by its gate, `[L,N]`: 1 leaves it, 0 removes it; differentiable."""
    gated = model.stack(stack)
    gates_LN = _finite("gates_LN", gates_LN)
    if gates_LN.shape != (gated.layers, gated.heads):
        raise ValueError(f"gates must be [layers, heads] = {(gated.layers, gated.heads)}, got {gates_LN.shape}")
    weight = (1 - gates_LN)[:, None, None, :, None]
    return SiteEdit(jnp.arange(gated.layers), weight, jnp.zeros((gated.layers, 1, 1, 1, 1)), "z", gated.name)


@checked(recent=at_least(1), sink=at_least(0))
def window(model: Model, heads: HeadList, *, recent: int, sink: int = 4, stack: str | None = None) -> SiteEdit:
    """Restrict (layer, head) pairs to the first and the recent positions, as a streaming head's cache does.

    A query sees the keys of the `sink` first real positions, and of the `recent` last ones, its own among them; where
    attention looks both ways, those of the next `recent` − 1 ones, too. Positions stay the text's (Xiao et al. 2023,
    2309.17453, number those that are kept anew). A window as long as the text changes nothing.

    Raises:
        ValueError: for an empty list, a head that is not there, no recent position, or cross-attention, whose keys are
            at no distance from its queries.
    """
    windowed = model.stack(stack)
    if windowed.is_cross:
        raise ValueError(f"the {windowed.name} of {model.name} reads another sequence: it has no recent keys")
    pairs = head_pairs("heads", windowed, heads)
    layers, row = np.unique(pairs[:, 0], return_inverse=True)
    recent_of = np.zeros((len(layers), 1, windowed.heads, 1, 1), np.int32)
    recent_of[row, 0, pairs[:, 1]] = recent
    sinks = jnp.full((len(layers), 1, 1, 1, 1), sink, jnp.int32)
    return SiteEdit(jnp.asarray(layers), jnp.asarray(recent_of), sinks, "scores", windowed.name, "window")


def _edit(
    model: Model,
    site: str,
    source: ArrayLike,
    operation: Literal["mix", "add"],
    layers: int | Sequence[int],
    heads: int | Sequence[int] | None,
    mask: Array | None,
    amount: ArrayLike,
) -> SiteEdit:
    stack_name, site = model.site(site)
    stack = model.stack(stack_name)
    chosen = _indices("layers", layers, stack.layers)
    values = _finite("source", source)
    values = values[None] if np.ndim(layers) == 0 else values
    rank = 1 + len(SITES[site])
    if values.ndim != rank or values.shape[0] != len(chosen):
        raise ValueError(
            f"source at {site} needs {rank - 1} axes, after one of {len(chosen)} layers if there are several; "
            f"got shape {np.shape(source)}"
        )
    weight = jnp.broadcast_to(_amount(amount), (len(chosen), *(1,) * (rank - 1)))
    if heads is not None:
        weight = weight * _head_mask(stack, site, heads)
    if mask is not None:
        weight = weight * mask[None]
    return SiteEdit(jnp.asarray(chosen), weight, values, site, stack_name, operation)


def _head_mask(stack: Stack, site: str, heads: int | Sequence[int]) -> np.ndarray:
    """Return 1 at the chosen heads, 0 elsewhere, with a layer axis and the site's axes, size 1 but for heads."""
    if not has_heads(site):
        raise ValueError(f"the site {site} has no heads; leave heads out")
    count = stack.heads_at(site)
    mask = np.isin(np.arange(count), _indices("heads", heads, count)).astype(np.float32)
    return mask.reshape(1, *(count if axis in "NK" else 1 for axis in SITES[site]))


def _selection(
    model: Model,
    name: str,
    positions: int | Sequence[int] | None,
    examples: int | Sequence[int] | None,
    batch: Batch | None,
) -> Array | None:
    """Return 1 at the chosen examples and positions, 0 elsewhere, with the site's axes; None for all of them."""
    if positions is None and examples is None:
        return None
    if batch is None:
        raise ValueError("positions and examples are those of a batch: give it as batch=")
    stack, site = model.site(name)
    site_positions = model.stack(stack).positions_at(site, batch)
    B, T = site_positions.shape
    chosen_B = np.arange(B) if examples is None else _indices("examples", examples, B)
    chosen_T = np.arange(T) if positions is None else _indices("positions", positions, T)
    mask_BT = np.zeros((B, T), np.float32)
    mask_BT[np.ix_(chosen_B, chosen_T)] = 1
    if not (mask_BT * np.asarray(site_positions.mask)).any():
        raise ValueError(f"an edit at positions {chosen_T.tolist()} hits nothing: they are padding in every example")
    # All positions need no axis: the edit then holds for texts of any length.
    mask_BT = mask_BT[:, :1] if positions is None else mask_BT
    axes = SITES[site]
    sizes = {"B": B, "S" if is_of_keys(site) else "T": mask_BT.shape[1]}
    return jnp.asarray(mask_BT.reshape([sizes.get(axis, 1) for axis in axes]))


def _indices(name: str, chosen: int | Sequence[int], count: int) -> np.ndarray:
    """Return indices below `count` as an array; raise ValueError for none, a wrong one, or one named twice."""
    numbers = np.atleast_1d(np.asarray(chosen))
    if numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be at least one whole number, got {chosen!r}")
    if numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"{name} are 0..{count - 1}; an edit at {numbers.tolist()} hits nothing")
    if len(set(numbers.tolist())) < len(numbers):
        raise ValueError(f"{name} must each be named once, got {numbers.tolist()}")
    return numbers


def head_pairs(name: str, stack: Stack, heads: HeadList) -> np.ndarray:
    """Return (layer, head) pairs as an array; raise ValueError for none, or a head that is not there."""
    pairs = np.asarray(heads)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"{name} must be a list of at least one (layer, head) pair, got {heads!r}")
    for layer, head in pairs:
        if not (0 <= layer < stack.layers and 0 <= head < stack.heads):
            raise ValueError(
                f"{name}: head {(int(layer), int(head))} hits nothing: the {stack.name} has layers "
                f"0..{stack.layers - 1} and heads 0..{stack.heads - 1}"
            )
    return pairs


def _finite(name: str, values: ArrayLike) -> Array:
    array = jnp.asarray(values)
    all_finite(name, array)
    return array


def _of_all_layers(name: str, values: ArrayLike, stack: Stack) -> Array:
    array = jnp.asarray(values)
    if array.shape[:1] != (stack.layers,):
        raise ValueError(f"{name} need a leading axis of all {stack.layers} layers, got shape {array.shape}")
    return array


def _amount(amount: ArrayLike) -> Array:
    number = _finite("amount", amount)
    if number.ndim:
        raise ValueError(f"amount must be one number, got an array of shape {number.shape}; vmap over several")
    return number.astype(jnp.float32)
