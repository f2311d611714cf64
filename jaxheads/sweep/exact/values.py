"""What is put in a head's place when it is ablated: nothing, a mean, or another example's output."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.axes import Positions
from ...models.inputs.batch import Batch
from ...models.network import Network, forward
from ...models.stack import Stack
from .plan import forward_pieces
from .work import Sweep


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bank:
    """Stand-ins for heads' outputs: `values[layer, index[b, t], head]`.

    Attributes:
        values: `[L,P,N,H]`, of P stand-ins.
        index: which of them each position gets, `[B,T]`.
    """

    values: Array
    index: Array
    where: None = None

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """`[B,T,N,H]`."""
        del stack, site
        return self.values[layer][self.index]


@dataclass(frozen=True)
class Fixed:
    """Stand-ins chosen beforehand: `values` `[L,P,N,H]`; which of the P each position of the batch gets, `[B,T]`."""

    values: Array
    index: np.ndarray

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[Bank]:
        """One bank, whatever the examples."""
        del piece
        devices = sweep.room.devices
        yield Bank(devices.everywhere(self.values), devices.examples(jnp.asarray(self.index[examples])))


@dataclass(frozen=True)
class Donors:
    """Each example gets the heads' outputs of other examples, position by position (counted over real tokens).

    Attributes:
        donors: example numbers in the reference, `[donors, B]`.
    """

    reference: Batch
    donors: np.ndarray

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[Bank]:
        """A bank for each donor."""
        devices = sweep.room.devices
        for donor_B in self.donors:
            given = self.reference.take(donor_B[examples])
            z_LBTNH = _all_z(sweep.network, devices.examples(given), stack=sweep.stack.name)
            L, B, S = z_LBTNH.shape[:3]
            axis = sweep.stack.queries
            column_BS = np.argsort(~np.asarray(axis.of(given).mask), axis=1, kind="stable")
            column_BT = np.take_along_axis(column_BS, devices.fetch(axis.of(piece).positions), axis=1)
            index_BT = np.arange(B)[:, None] * S + column_BT
            bank_LPNH = z_LBTNH.reshape(L, B * S, *z_LBTNH.shape[3:])
            yield Bank(bank_LPNH, devices.examples(jnp.asarray(index_BT)))


def zeros(stack: Stack, batch: Batch) -> Fixed:
    """Nothing in the head's place."""
    nothing = jnp.zeros((stack.layers, 1, stack.heads, stack.head_size))
    return Fixed(nothing, np.zeros(stack.queries.of(batch).shape, int))


@dataclass(frozen=True)
class Slots:
    """Which mean each token of a reference belongs to: one for all, or apart by position (counted over real tokens),
    by group, or by both.

    Attributes:
        slots: of the reference's tokens, `[R,S]`; slot `position + width * group`.
        counts: how many real tokens each slot has, `[P]`.
        known: the groups' labels, sorted.
    """

    slots: np.ndarray
    counts: np.ndarray
    per_position: bool
    width: int
    known: np.ndarray

    @classmethod
    def of(cls, reference: Positions, groups: np.ndarray | None, *, per_position: bool) -> "Slots":
        """Of a reference whose examples have the labels `groups` `[R]`; None for one group."""
        width = int(np.asarray(reference.lengths).max()) if per_position else 1
        known, group = np.unique(_one_group(groups, reference), return_inverse=True)
        slots_RS = _places(reference, per_position) + width * group[:, None]
        counts = np.bincount(slots_RS[np.asarray(reference.mask)], minlength=width * len(known))
        return cls(slots_RS, counts, per_position, width, known)

    def index(self, batch: Positions, groups: np.ndarray | None) -> np.ndarray:
        """The slot of each position of a batch whose examples have the labels `groups` `[B]`: `[B,T]`.

        Raises:
            ValueError: if the reference has no token for a mean that the batch needs.
        """
        labels, places_BT = _one_group(groups, batch), _places(batch, self.per_position)
        group = np.minimum(np.searchsorted(self.known, labels), len(self.known) - 1)
        slots_BT = np.minimum(places_BT, self.width - 1) + self.width * group[:, None]
        there_BT = (self.known[group] == labels)[:, None] & (places_BT < self.width) & (self.counts[slots_BT] > 0)
        lacking = np.argwhere(np.asarray(batch.mask) & ~there_BT)
        if lacking.size:
            example, column = lacking[0]
            raise ValueError(
                f"the reference has no token for the means of {len(lacking)} tokens, such as position "
                f"{places_BT[example, column]} of group {labels[example]}; give a longer or larger reference, or "
                "per_position=False"
            )
        return slots_BT

    def means(self, sweep: Sweep, reference: Batch) -> Array:
        """Each head's mean output in each slot over the reference's real tokens, `[L,P,N,H]`."""
        stack, devices = sweep.stack, sweep.room.devices
        sums = np.zeros((stack.layers, len(self.counts), stack.heads, stack.head_size))
        for piece in forward_pieces(stack, reference, memory=sweep.room.memory, multiple=devices.multiples[0]):
            counted_B = np.arange(len(piece)) < len(np.unique(piece))  # the last is repeated to fill the piece
            given = devices.examples((reference.take(piece), jnp.asarray(self.slots[piece]), jnp.asarray(counted_B)))
            sums += devices.fetch(_sums(sweep.network, *given, stack=stack.name, slots=len(self.counts)))
        return jnp.asarray(sums / np.maximum(self.counts, 1)[None, :, None, None], jnp.float32)


def _one_group(groups: np.ndarray | None, side: Positions) -> np.ndarray:
    return np.zeros(side.shape[0], int) if groups is None else groups


def _places(side: Positions, per_position: bool) -> np.ndarray:
    """Which of a group's means each token belongs to: its position, or the only one there is."""
    return np.asarray(side.positions) if per_position else np.zeros(side.shape, int)


def choose_donors(
    batch: Positions | Batch, reference: Positions | Batch | None, *, donors: int, seed: int
) -> np.ndarray:
    """Random donors `[donors, B]`, distinct for each example, long enough for it, and never the example itself.

    Raises:
        ValueError: if an example has fewer than `donors` possible donors.
    """
    lengths_B = np.asarray(batch.lengths)
    given_R = lengths_B if reference is None else np.asarray(reference.lengths)
    rng = np.random.default_rng(seed)
    chosen = np.empty((donors, len(lengths_B)), int)
    for example, length in enumerate(lengths_B):
        fit = np.flatnonzero(given_R >= length)
        fit = fit[fit != example] if reference is None else fit
        if len(fit) < donors:
            raise ValueError(
                f"example {example} has {length} tokens and {len(fit)} other examples at least as long to resample "
                f"from; {donors} are needed. Give a larger reference, or batches of one length"
            )
        chosen[:, example] = rng.choice(fit, donors, replace=False)
    return chosen


@partial(jax.jit, static_argnames="stack")
def _all_z(network: Network, batch: Batch, *, stack: str) -> Array:
    return forward(network, batch, read={stack: lambda seen: seen["z"]})[1][stack]


@partial(jax.jit, static_argnames=("stack", "slots"))
def _sums(network: Network, batch: Batch, slot_BT: Array, counted_B: Array, *, stack: str, slots: int) -> Array:
    """Sums `[L,P,N,H]` of z over the real tokens of each slot, in the examples that are counted."""
    [axis] = [one.queries for one in network.stacks if one.name == stack]
    real_BT = (axis.of(batch).mask & counted_B[:, None]).astype(jnp.float32)

    def read(seen: Mapping[str, Array]) -> Array:
        z_BTNH = seen["z"].astype(jnp.float32) * real_BT[..., None, None]
        return jax.ops.segment_sum(z_BTNH.reshape(-1, *z_BTNH.shape[2:]), slot_BT.reshape(-1), num_segments=slots)

    return forward(network, batch, read={stack: read})[1][stack]
