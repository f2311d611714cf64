"""Where paths end: the receivers that a user names, and the positions at which they receive."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ...models.inputs.axes import Positions
from ...models.stack import Stack
from ..exact.plan import bucket
from .streams import Places, hears_own_layer

Receiver = Literal["logits", "memory"] | tuple[str, int, int] | tuple[str, int]
SITES = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_out"}
Masks = Mapping[str, Mapping[str, np.ndarray]]
"""Receivers, bool `[L,X]` by stack and site."""

_ELSEWHERE = {
    "logits": "a direct path from the {} ends where its stream does, at what the stacks after it read: ask for "
    "receivers='memory'",
    "memory": "the {}'s stream is the model's last, no other stack reads its end: ask for receivers='logits'",
}


class _Place(NamedTuple):
    """Where one receiver is, with head 0 for an MLP."""

    part: Stack
    kind: str
    layer: int
    head: int


def receiver_masks(stream: Stack, senders: Stack, receivers: Sequence[Receiver] | str, end: str) -> Masks:
    """Which heads and MLPs receive; nothing for the end of the stream.

    Args:
        stream, senders: the stack whose stream it is, and that of them whose heads send.
        end: what the end of the stream is called: "logits", or "memory" where other stacks read it.

    Raises:
        ValueError: for no receiver, one that is not there, that no head comes before, or that is named twice; and for
            the end beside others.
    """
    named = [receivers] if isinstance(receivers, str) else list(receivers)
    if named == [end]:
        return {}
    ends = [one for one in named if isinstance(one, str) and one in _ELSEWHERE]
    if len(named) == 1 and ends:
        raise ValueError(_ELSEWHERE[ends[0]].format(senders.name))
    if not named or ends:
        raise ValueError(
            f"receivers must be {end!r} or a list of others, such as [('q', 9, 6), ('mlp', 8)]: the {end} read the "
            f"final stream, and with that replaced no other receiver could show; got {receivers!r}"
        )
    masks: dict[str, dict[str, np.ndarray]] = {}
    for one in named:
        part, kind, layer, head = _checked(stream, senders, one)
        sites = masks.setdefault(part.name, {})
        mask = sites.setdefault(SITES[kind], np.zeros((part.layers, _count(part, kind)), bool))
        if mask[layer, head]:
            raise ValueError(f"receivers must each be named once, got {one!r} twice")
        mask[layer, head] = True
    return masks


def receiver_names(masks: Masks, senders: Stack, end: str) -> list[str]:
    """The receivers that masks stand for, as words: "q 9.6", "cross.q 3.0" of another stack than the senders', "mlp 8",
    or the end of the stream for none."""
    kinds = {site: kind for kind, site in SITES.items()}
    names: list[str] = []
    for stack, sites in sorted(masks.items()):
        for site, mask in sorted(sites.items()):
            kind = kinds[site] if stack == senders.name or site == "mlp_out" else f"{stack}.{kinds[site]}"
            places = np.argwhere(mask)
            names += [f"{kind} {layer}" if kind == "mlp" else f"{kind} {layer}.{head}" for layer, head in places]
    return names or [end]


def _checked(stream: Stack, senders: Stack, receiver: Any) -> _Place:
    match receiver:
        case [str() as word, int() | np.integer() as layer, int() | np.integer() as head]:
            known = ("q", "k", "v")
        case [str() as word, int() | np.integer() as layer]:
            head, known = 0, ("mlp",)
        case _:
            word, layer, head, known = "", 0, 0, ()
    prefix, _, kind = word.rpartition(".")
    if kind not in known:
        raise ValueError(
            f"a receiver is ('q', layer, head), ('k', layer, key/value head), ('v', layer, key/value head), "
            f"('mlp', layer) or 'logits', with the stack's name before it for another on the same stream "
            f"('cross.q'); got {receiver!r}"
        )
    place = _Place(receiving_stack(stream, senders, prefix, kind), kind, int(layer), int(head))
    part = place.part
    if not (0 <= layer < part.layers and 0 <= head < _count(part, kind)):
        raise ValueError(
            f"receiver {receiver!r} is not there: the {part.name} has layers 0..{part.layers - 1}, "
            f"and at {kind} heads 0..{_count(part, kind) - 1}"
        )
    if layer == 0 and not hears_own_layer(stream, senders.name, part.name, SITES[kind]):
        raise ValueError(f"no path leads to receiver {receiver!r}: no head comes before layer 0")
    return place


def receiving_stack(stream: Stack, senders: Stack, prefix: str, kind: str) -> Stack:
    """The stack that a receiver is in: the one that its prefix names; without one the senders', or where the MLP is.

    Raises:
        ValueError: if it has no such receivers that read the stream.
    """
    with_mlp = [part for part in stream.members if "mlp_out" in part.sites]
    candidates = with_mlp if kind == "mlp" else stream.members
    wanted = prefix or (with_mlp[0].name if kind == "mlp" and with_mlp else senders.name)
    named = [part for part in candidates if part.name == wanted]
    if not named:
        raise ValueError(
            f"receiver '{prefix}{'.' * bool(prefix)}{kind}' is not there: the stream of the {senders.name} has the "
            f"stacks {', '.join(part.name for part in stream.members)}, with MLPs in "
            f"{', '.join(part.name for part in with_mlp) or 'none'}"
        )
    if named[0].is_cross and kind in "kv":
        raise ValueError(
            f"keys and values of the {named[0].name}-attention read what another stack has finished, not the stream of "
            f"the {senders.name}: they can't receive from it. From that other stack's heads, ask for "
            "receivers='memory'"
        )
    return named[0]


def _count(stack: Stack, kind: str) -> int:
    return {"q": stack.heads, "mlp": 1}.get(kind, stack.kv_heads)


def chosen_positions(positions: ArrayLike | None, side: Positions) -> np.ndarray:
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
