"""Where paths end: the receivers that a user names, and the positions at which they receive."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ...models.axes import Side
from ...models.stack import Stack
from ..plan import bucket
from .streams import Places

Receiver = Literal["logits"] | tuple[Literal["q", "k", "v"], int, int] | tuple[Literal["mlp"], int]
SITES = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_out"}


def receiver_masks(stack: Stack, receivers: Sequence[Receiver] | Literal["logits"]) -> dict[str, np.ndarray]:
    """Which heads and MLPs receive, bool `[L,X]` by site; nothing for the logits.

    Raises:
        ValueError: for no receiver, one that is not there, that no head comes before, or that is named twice; and for
            logits beside others.
    """
    named = [receivers] if isinstance(receivers, str) else list(receivers)
    if named == ["logits"]:
        return {}
    if not named or "logits" in named:
        raise ValueError(
            f"receivers must be 'logits' or a list of others, such as [('q', 9, 6), ('mlp', 8)]: the logits read the "
            f"final stream, and with that replaced no other receiver could show; got {receivers!r}"
        )
    masks: dict[str, np.ndarray] = {}
    for one in named:
        kind, layer, head = _checked(stack, one)
        mask = masks.setdefault(SITES[kind], np.zeros((stack.layers, _count(stack, kind)), bool))
        if mask[layer, head]:
            raise ValueError(f"receivers must each be named once, got {one!r} twice")
        mask[layer, head] = True
    return masks


def receiver_names(masks: Mapping[str, np.ndarray]) -> list[str]:
    """The receivers that masks stand for, as words: "q 9.6", "mlp 8", or "logits" for none."""
    kinds = {site: kind for kind, site in SITES.items()}
    names = [
        f"{kinds[site]} {layer}" if kinds[site] == "mlp" else f"{kinds[site]} {layer}.{head}"
        for site, mask in sorted(masks.items())
        for layer, head in np.argwhere(mask)
    ]
    return names or ["logits"]


def _checked(stack: Stack, receiver: Any) -> tuple[str, int, int]:
    """Kind, layer and head (0 for an MLP) of one receiver."""
    match receiver:
        case ["q" | "k" | "v" as kind, int() | np.integer() as layer, int() | np.integer() as head]:
            pass
        case ["mlp" as kind, int() | np.integer() as layer]:
            head = 0
        case _:
            raise ValueError(
                f"a receiver is ('q', layer, head), ('k', layer, key/value head), ('v', layer, key/value head), "
                f"('mlp', layer) or 'logits'; got {receiver!r}"
            )
    if not (0 <= layer < stack.layers and 0 <= head < _count(stack, kind)):
        raise ValueError(
            f"receiver {receiver!r} is not there: the {stack.name} has layers 0..{stack.layers - 1}, "
            f"and at {kind} heads 0..{_count(stack, kind) - 1}"
        )
    if layer == 0 and kind != "mlp":
        raise ValueError(f"no path leads to receiver {receiver!r}: no head comes before layer 0")
    return kind, int(layer), int(head)


def _count(stack: Stack, kind: str) -> int:
    return {"q": stack.heads, "mlp": 1}.get(kind, stack.kv_heads)


def chosen_positions(positions: ArrayLike | None, side: Side) -> np.ndarray:
    """Bool `[B,T]`: the real ones among those that were asked for."""
    mask_BT = np.asarray(side.mask)
    B, T = mask_BT.shape
    if positions is None:
        return mask_BT
    given = np.asarray(positions)
    if given.dtype == bool and given.shape == (B, T):
        chosen_BT = given
    elif np.issubdtype(given.dtype, np.integer) and given.shape in ((), (1,), (B,)):
        if given.min() < 0 or given.max() >= T:
            raise ValueError(f"positions must lie in 0..{T - 1}, got {given.tolist()}")
        chosen_BT = np.arange(T)[None] == np.broadcast_to(given.reshape(-1), (B,))[:, None]
    else:
        raise ValueError(
            f"positions must be one column of the batch for each of {B} examples, or bool {(B, T)}; got {given.dtype} "
            f"of shape {given.shape}"
        )
    nothing = np.flatnonzero(~(chosen_BT & mask_BT).any(axis=1))
    if nothing.size:
        raise ValueError(
            f"positions must hold a real token of every example; examples {nothing[:8].tolist()} have none"
        )
    return chosen_BT & mask_BT


def places_of(chosen_BT: np.ndarray, difference: int, *, causal: bool) -> tuple[Places, int]:
    """The positions at which receivers can receive anything new, and the first column that can change at all.

    Args:
        difference: the first column at which the runs differ: in a causal stack they are the same before it.
    """
    T, first = chosen_BT.shape[1], 0
    if causal:
        chosen_BT = chosen_BT & (np.arange(T) >= difference)
        first = int(bucket(int(chosen_BT.any(axis=0).argmax()) if chosen_BT.any() else T - 1, T))
    count = max(1, int(chosen_BT.sum(axis=1).max()))
    order_BT = np.argsort(~chosen_BT, axis=1, kind="stable").astype(np.int32)
    slot_BT = np.minimum(np.argsort(order_BT, axis=1), count - 1).astype(np.int32)
    return Places(*map(jnp.asarray, (order_BT[:, :count], slot_BT, chosen_BT))), first
