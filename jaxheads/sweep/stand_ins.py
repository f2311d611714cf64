"""What is put in a head's place when it is ablated: nothing, a mean, or another example's output."""

from collections.abc import Iterator, Sequence
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
    """The same stand-ins for all examples: zeros `[L,1,N,H]`, a mean, or a mean for each position `[L,P,N,H]`."""

    values: Array

    def banks(self, chunk: Batch, examples: np.ndarray) -> Iterator[Bank]:
        del examples
        per_position = self.values.shape[1] > 1
        yield Bank(self.values, chunk.positions if per_position else jnp.zeros_like(chunk.tokens))


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


def zeros(stack: Stack) -> Fixed:
    """Nothing in the head's place."""
    return Fixed(jnp.zeros((stack.layers, 1, stack.heads, stack.head_size)))


def means(
    model: Model, stack: Stack, reference: Batch, *, needed: Batch, per_position: bool, pieces: Sequence[np.ndarray]
) -> Fixed:
    """Each head's mean output over the reference's examples and real positions, or over its examples only.

    Args:
        needed: the batch that will be ablated.
        pieces: the reference's examples in chunks that fit memory; repeats are counted once.

    Raises:
        ValueError: if `per_position` and the reference has no token at a position that the batch has.
    """
    length = int(np.asarray(reference.lengths).max())
    wanted = int(np.asarray(needed.lengths).max())
    if per_position and wanted > length:
        raise ValueError(
            f"a mean per position needs a reference with {wanted} positions, its longest example has {length}; "
            "give a longer reference or per_position=False"
        )
    slots = length if per_position else 1
    sums = np.zeros((stack.layers, slots, stack.heads, stack.head_size))
    counts = np.zeros(slots)
    for piece in pieces:
        piece = np.unique(piece)
        part = reference.take(piece)
        sums_LPNH, counts_P = _sums(model.network, part, stack=stack.name, slots=slots)
        sums += np.asarray(sums_LPNH)
        counts += np.asarray(counts_P)
    return Fixed(jnp.asarray(sums / counts[None, :, None, None], jnp.float32))


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
def _sums(network: Network, batch: Batch, *, stack: str, slots: int) -> tuple[Array, Array]:
    """Sums `[L,P,N,H]` of z over real tokens, by position if there are several slots, and the tokens' counts `[P]`."""
    slot_BT = batch.positions if slots > 1 else jnp.zeros_like(batch.tokens)
    slot_BTP = (slot_BT[..., None] == jnp.arange(slots)[None, None]) & batch.mask[..., None]

    def read(seen):
        return jnp.einsum("btp,btnh->pnh", slot_BTP.astype(jnp.float32), seen["z"].astype(jnp.float32))

    return forward(network, batch, read=read)[1][stack], slot_BTP.sum(axis=(0, 1), dtype=jnp.int32)
