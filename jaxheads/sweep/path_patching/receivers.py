"""Receivers: the ends of paths that a user names, and the positions at which they read.

Dimension key: L layers, B examples, T positions, P positions that receivers read at, X heads of either kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...models.inputs.batch import Positions
from ...models.stack import Stack
from ...programs import take_examples, to_device
from ..cached_run import start_column

Receiver = Literal["logits", "memory"] | tuple[str, int, int] | tuple[str, int]

ReceiverMasks = Mapping[str, Mapping[str, Array]]
"""The receivers, bool by stack and site: `q` `[L,N]`, `k` and `v` `[L,K]`, `mlp_out` `[L,1]`."""

KINDS = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_out"}
"""Kinds of receivers, and the sites that their values are."""

_WRONG_END = {
    "logits": "a direct path from the {} ends where its stream does, at what the stacks after it read: ask for "
    "receivers='memory'",
    "memory": "the {}'s stream is the model's last, no other stack reads its end: ask for receivers='logits'",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReceiverPositions:
    """The positions at which receivers' values are replaced.

    Attributes:
        columns: each example's positions as columns of the batch, filled up with others, `[B,P]`.
        slot: index of each column among the P, `[B,T]`; arbitrary where it is not among them.
        chosen: whether it is among them, bool `[B,T]`.
    """

    columns: Array
    slot: Array
    chosen: Array

    @classmethod
    def of(cls, chosen_BT: np.ndarray) -> "ReceiverPositions":
        """Return the positions that a mask chooses."""
        # Arrays have one shape for all examples: those with fewer positions than P are filled up with columns that
        # `chosen` leaves out.
        count = max(1, int(chosen_BT.sum(axis=1).max()))
        order_BT = np.argsort(~chosen_BT, axis=1, kind="stable").astype(np.int32)
        slot_BT = np.minimum(np.argsort(order_BT, axis=1), count - 1).astype(np.int32)
        return cls(*map(to_device, (order_BT[:, :count], slot_BT, chosen_BT)))

    def take(self, examples: np.ndarray) -> "ReceiverPositions":
        """Return the positions of these examples of the batch."""
        return take_examples(self, examples)


class _Named(NamedTuple):
    """One receiver, with head 0 for an MLP."""

    stack: Stack
    site: str
    layer: int
    head: int


def receiver_masks(stream: Stack, senders: Stack, receivers: Sequence[Receiver] | str, end: str) -> ReceiverMasks:
    """Return the heads and MLPs that receive; nothing for the end of the stream.

    Args:
        stream: the stack that the stream belongs to.
        senders: the stack on it whose heads send.
        end: the name of the stream's end: "logits", or "memory" where other stacks read it.

    Raises:
        ValueError: for no receiver, one that is not there, that no head comes before, or that is named twice; and for
            the end beside others.
    """
    named = [receivers] if isinstance(receivers, str) else list(receivers)
    if named == [end]:
        return {}
    ends = [receiver for receiver in named if isinstance(receiver, str) and receiver in _WRONG_END]
    if len(named) == 1 and ends:
        raise ValueError(_WRONG_END[ends[0]].format(senders.name))
    if not named or ends:
        raise ValueError(
            f"receivers must be {end!r} or a list of others, such as [('q', 9, 6), ('mlp', 8)]: the {end} read the "
            f"final stream, and with that replaced no other receiver could show; got {receivers!r}"
        )
    masks: dict[str, dict[str, np.ndarray]] = {}
    for receiver in named:
        stack, site, layer, head = _checked(stream, senders, receiver)
        mask = masks.setdefault(stack.name, {}).setdefault(site, np.zeros((stack.layers, stack.heads_at(site)), bool))
        if mask[layer, head]:
            raise ValueError(f"receivers must each be named once, got {receiver!r} twice")
        mask[layer, head] = True
    return jax.tree.map(to_device, masks)


def receiver_names(masks: ReceiverMasks, senders: Stack, end: str) -> list[str]:
    """Return the receivers in words: "q 9.6", "mlp 8", "cross.q 3.0" of another stack than the senders', or the end."""
    kinds = {site: kind for kind, site in KINDS.items()}
    names: list[str] = []
    for stack, sites in sorted(masks.items()):
        for site, mask in sorted(sites.items()):
            kind = kinds[site] if stack == senders.name or site == "mlp_out" else f"{stack}.{kinds[site]}"
            heads = np.argwhere(np.asarray(mask))
            names += [f"{kind} {layer}" if kind == "mlp" else f"{kind} {layer}.{head}" for layer, head in heads]
    return names or [end]


def receiving_stack(stream: Stack, senders: Stack, prefix: str, kind: str) -> Stack:
    """Return the stack that a receiver is in: the one its prefix names; without one the senders', or the MLP's.

    Raises:
        ValueError: if it has no such receivers that read the stream.
    """
    with_mlp = [member for member in stream.members if "mlp_out" in member.sites]
    candidates = with_mlp if kind == "mlp" else stream.members
    wanted = prefix or (with_mlp[0].name if kind == "mlp" and with_mlp else senders.name)
    stack = next((member for member in candidates if member.name == wanted), None)
    if stack is None:
        raise ValueError(
            f"receiver '{prefix}{'.' * bool(prefix)}{kind}' is not there: the stream of the {senders.name} has the "
            f"stacks {', '.join(member.name for member in stream.members)}, with MLPs in "
            f"{', '.join(member.name for member in with_mlp) or 'none'}"
        )
    if stack.is_cross and kind in ("k", "v"):
        raise ValueError(
            f"keys and values of the {stack.name}-attention read what another stack has finished, not the stream of "
            f"the {senders.name}: they can't receive from it. From that other stack's heads, ask for "
            "receivers='memory'"
        )
    return stack


def layers_to(stream: Stack, senders: str, receivers: str, site: str) -> int:
    """Return how many layers after its own a sender is first read, by this site of the stack `receivers`: 0 or 1.

    Args:
        stream: the stack whose stream both are on.
    """
    # Within a layer the stacks of a stream write in turn. A later stack reads what an earlier one has just written; of
    # a stack's own sites the MLP alone comes after its heads.
    order = [member.name for member in stream.members]
    reads, sends = order.index(receivers), order.index(senders)
    reads_own_layer = reads > sends or (reads == sends and site == "mlp_out")
    return 0 if reads_own_layer else 1


def chosen_positions(positions: ArrayLike | None, axis: Positions) -> np.ndarray:
    """Return the positions that a user asked for, without padding, bool `[B,T]`.

    Raises:
        ValueError: for another shape or type, columns that are not there, or an example without a position.
    """
    mask_BT = np.asarray(axis.mask)
    B, T = mask_BT.shape
    if positions is None:
        return mask_BT
    asked = np.asarray(positions)
    if asked.dtype == bool and asked.shape == (B, T):
        chosen_BT = asked
    elif np.issubdtype(asked.dtype, np.integer) and asked.shape in ((), (1,), (B,)):
        if asked.min() < 0 or asked.max() >= T:
            raise ValueError(f"positions must lie in 0..{T - 1}, got {asked.tolist()}")
        chosen_BT = np.arange(T)[None] == np.broadcast_to(asked.reshape(-1), (B,))[:, None]
    else:
        raise ValueError(
            f"positions must be one column of the batch for each of {B} examples, or bool {(B, T)}; got {asked.dtype} "
            f"of shape {asked.shape}"
        )
    nothing = np.flatnonzero(~(chosen_BT & mask_BT).any(axis=1))
    if nothing.size:
        raise ValueError(
            f"positions must hold a real token of every example; examples {nothing[:8].tolist()} have none"
        )
    return chosen_BT & mask_BT


def changing_positions(chosen_BT: np.ndarray, difference: int, *, causal: bool) -> tuple[ReceiverPositions, int]:
    """Return the positions at which receivers can read anything new, and the start column of the first of them.

    Args:
        difference: the first column at which the two batches differ.
    """
    if not causal:
        return ReceiverPositions.of(chosen_BT), 0
    # In a causal stack both runs are alike before the first column that differs: there no sender writes anything new.
    T = chosen_BT.shape[1]
    chosen_BT = chosen_BT & (np.arange(T) >= difference)
    first = int(chosen_BT.any(axis=0).argmax()) if chosen_BT.any() else T - 1
    return ReceiverPositions.of(chosen_BT), int(start_column(first, T))


def _checked(stream: Stack, senders: Stack, receiver: Any) -> _Named:
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
    stack, site = receiving_stack(stream, senders, prefix, kind), KINDS[kind]
    heads = stack.heads_at(site)
    if not (0 <= layer < stack.layers and 0 <= head < heads):
        raise ValueError(
            f"receiver {receiver!r} is not there: the {stack.name} has layers 0..{stack.layers - 1}, "
            f"and at {kind} heads 0..{heads - 1}"
        )
    if layer < layers_to(stream, senders.name, stack.name, site):
        raise ValueError(f"no path leads to receiver {receiver!r}: no head comes before layer 0")
    return _Named(stack, site, int(layer), int(head))
