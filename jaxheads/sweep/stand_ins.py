"""What is put in a head's place when it is ablated: nothing, a mean, or another example's output."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..models.batch import Batch
from ..models.model import Model, Network, forward
from ..models.stack import Stack
from .engine import Bank


class StandIns(Protocol):
    """Where a sweep gets its replacements from, one chunk of examples at a time."""

    def banks(self, chunk: Batch, examples: np.ndarray) -> Iterator[Bank]:
        """The replacements for these examples of the batch; effects are averaged over what this yields."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Stand-ins chosen beforehand: `values` `[L,P,N,H]`; which of the P each position of the batch gets, `[B,T]`."""

    values: Array
    index: np.ndarray

    def banks(self, chunk: Batch, examples: np.ndarray) -> Iterator[Bank]:
        del chunk
        yield Bank(self.values, jnp.asarray(self.index[examples]))


@dataclass(frozen=True)
class Donors:
    """Each example gets the heads' outputs of other examples, position by position (counted over real tokens).

    Attributes:
        donors: example numbers in the reference, `[donors, B]`.
    """

    model: Model
    stack: str
    reference: Batch
    donors: np.ndarray

    def banks(self, chunk: Batch, examples: np.ndarray) -> Iterator[Bank]:
        for donor_B in self.donors:
            given = self.reference.take(donor_B[examples])
            z_LBTNH = _all_z(self.model.network, given, stack=self.stack)
            L, B, S = z_LBTNH.shape[:3]
            column_BS = np.argsort(~np.asarray(given.mask), axis=1, kind="stable")
            column_BT = np.take_along_axis(column_BS, np.asarray(chunk.positions), axis=1)
            index_BT = np.arange(B)[:, None] * S + column_BT
            yield Bank(z_LBTNH.reshape(L, B * S, *z_LBTNH.shape[3:]), jnp.asarray(index_BT))


def zeros(stack: Stack, batch: Batch) -> Fixed:
    """Nothing in the head's place."""
    return Fixed(jnp.zeros((stack.layers, 1, stack.heads, stack.head_size)), np.zeros(batch.tokens.shape, int))


@dataclass(frozen=True)
class Means:
    """Over what a mean is taken: everything, or apart by position (counted over real tokens), by group, or by both.

    Attributes:
        groups: a label for each example of the batch `[B]`, and for each of the reference `[R]`; None for one group.
    """

    per_position: bool
    groups: tuple[np.ndarray, np.ndarray] | None = None

    def slots(self, batch: Batch, reference: Batch) -> tuple[np.ndarray, np.ndarray, int]:
        """Which mean each position of the batch and of the reference belongs to, and how many there are.

        Raises:
            ValueError: if the reference has no token for a mean that the batch needs.
        """
        parts = (batch, reference)
        width = max(int(np.asarray(part.lengths).max()) for part in parts) if self.per_position else 1
        place = [
            np.asarray(part.positions) if self.per_position else np.zeros(part.tokens.shape, int) for part in parts
        ]
        labels = [np.zeros(len(part), int) for part in parts]
        if self.groups is not None:
            known, number = np.unique(np.concatenate(self.groups), return_inverse=True)
            labels = np.split(number, [len(batch)])
        else:
            known = np.zeros(1)
        wanted, given = (where + width * label[:, None] for where, label in zip(place, labels, strict=True))
        lacking = np.setdiff1d(wanted[np.asarray(batch.mask)], given[np.asarray(reference.mask)])
        if lacking.size:
            group, position = divmod(int(lacking[0]), width)
            raise ValueError(
                f"the reference has no token for {lacking.size} of the means that are needed, such as position "
                f"{position} of group {known[group]}; give a longer or larger reference, or per_position=False"
            )
        return wanted, given, width * len(known)


def means(
    model: Model, stack: Stack, batch: Batch, reference: Batch, over: Means, pieces: Iterable[np.ndarray]
) -> Fixed:
    """Each head's mean output over the reference's real tokens, apart as `over` says.

    Args:
        pieces: the reference's examples in chunks that fit memory; repeats are counted once.

    Raises:
        ValueError: if the reference has no token for a mean that the batch needs.
    """
    wanted_BT, given_RS, slots = over.slots(batch, reference)
    sums = np.zeros((stack.layers, slots, stack.heads, stack.head_size))
    counts = np.zeros(slots)
    for piece in pieces:
        piece = np.unique(piece)
        slot = jnp.asarray(given_RS[piece])
        sums_LPNH, counts_P = _sums(model.network, reference.take(piece), slot, stack=stack.name, slots=slots)
        sums += np.asarray(sums_LPNH)
        counts += np.asarray(counts_P)
    return Fixed(jnp.asarray(sums / np.maximum(counts, 1)[None, :, None, None], jnp.float32), wanted_BT)


def choose_donors(batch: Batch, reference: Batch | None, *, donors: int, seed: int) -> np.ndarray:
    """Random donors `[donors, B]`, distinct for each example, long enough for it, and never the example itself.

    Raises:
        ValueError: if an example has fewer than `donors` possible donors.
    """
    lengths_B = np.asarray(batch.lengths)
    given_R = lengths_B if reference is None else np.asarray(reference.lengths)
    rng = np.random.default_rng(seed)
    chosen = np.empty((donors, len(batch)), int)
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
    return forward(network, batch, read=lambda seen: seen["z"])[1][stack]


@partial(jax.jit, static_argnames=("stack", "slots"))
def _sums(network: Network, batch: Batch, slot_BT: Array, *, stack: str, slots: int) -> tuple[Array, Array]:
    """Sums `[L,P,N,H]` of z over the real tokens of each slot, and their counts `[P]`."""
    real_BT = batch.mask.astype(jnp.float32)

    def by_slot(x_BT: Array) -> Array:
        return jax.ops.segment_sum(x_BT.reshape(-1, *x_BT.shape[2:]), slot_BT.reshape(-1), num_segments=slots)

    def read(seen: Mapping[str, Array]) -> Array:
        return by_slot(seen["z"].astype(jnp.float32) * real_BT[..., None, None])

    return forward(network, batch, read=read)[1][stack], by_slot(real_BT)
