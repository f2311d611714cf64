"""Replacements of an ablated head's output: zeros, a mean over a reference, or another example's output.

Dimension key: E examples of the batch, R of the reference, B of a chunk, T positions of the batch, S of the reference,
P values to choose from, L layers, N heads, H head dimension.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import one_of
from ...execution.batching import Chunks, is_new
from ...execution.cost import forward_bytes
from ...execution.resources import Resources
from ...models.inputs.batch import Batch, Positions
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from .engine import SiteValues
from .work import Chunk, ValueSource

METHODS = ("zero", "mean", "resample")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadValues:
    """Outputs that replace heads' own: `values[layer, index[b, t], head]`.

    Attributes:
        values: `[L,P,N,H]`.
        index: which of the P each position gets, `[B,T]`.
    """

    values: Array
    index: Array
    where: None = None

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """Return the values of one layer, `[B,T,N,H]`."""
        del stack, site
        return self.values[layer][self.index]


class OneValue:
    """A source that gives each copy one value, and whose run is no baseline."""

    count = 1
    runs = 0

    def baseline(self, chunk: Chunk, values: Sequence[SiteValues]) -> None:
        """Return None: the effects are no share of another run's."""
        del chunk, values


@dataclass(frozen=True)
class Replacement:
    """The values that replace heads' outputs, as a user asked for them; `jaxheads.ablate` explains the options.

    Attributes:
        labels: groups of the batch's examples `[E]` and of the reference's `[R]`, or None.
    """

    model: Model
    stack: Stack
    resources: Resources
    method: str
    reference: Batch | None = None
    per_position: bool = False
    labels: tuple[np.ndarray, np.ndarray] | None = None
    donors: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if self.donors < 1:
            raise ValueError(f"resampling needs at least one donor, got {self.donors}")
        if self.labels is not None and self.method != "mean":
            raise ValueError(f"groups are what means are taken over; method={self.method!r} takes none")

    def check_stream(self) -> None:
        """Raise ValueError for what a stream of batches can't answer."""
        if self.method != "zero" and self.reference is None:
            raise ValueError(f"method={self.method!r} over a stream needs a reference: a batch to take values from")
        if self.labels is not None:
            raise ValueError("groups label the examples of one batch; a stream has no labels")

    def of(self, batch: Batch) -> ValueSource:
        """Return the values for a batch; nothing runs yet.

        Raises:
            ValueError: if batch or reference can't go through the model, or labels or donors don't fit them.
        """
        self._check(batch)
        positions = self.stack.queries.of
        if self.method == "zero":
            zeros = jnp.zeros((self.stack.layers, 1, self.stack.heads, self.stack.head_size))
            return FixedValues(lambda: zeros, np.zeros(positions(batch).shape, int), 0)
        if self.method == "resample":
            reference = batch if self.reference is None else self.reference
            others = None if self.reference is None else positions(reference)
            donors = choose_donors(positions(batch), others, donors=self.donors, seed=self.seed)
            return ResampledValues(reference, donors)
        labels = None if self.labels is None else self.labels[0]
        if self.reference is None:
            groups = self._groups_of(batch)
            return FixedValues(lambda: self._means(groups, batch), groups.index(positions(batch), labels), 1)
        # A stream asks again with each batch: the reference is run once for all of them.
        index_ET = self._reference_groups.index(positions(batch), labels)
        return FixedValues(lambda: self._reference_means, index_ET, 1)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Arrays that the answer depends on."""
        return self.reference, self.labels

    @property
    def about(self) -> dict[str, Any]:
        """Words for the provenance, which the answer depends on as well."""
        return {
            "method": self.method,
            "per_position": self.per_position,
            "reference": "the batch" if self.reference is None else f"{len(self.reference)} examples",
            "groups": 1 if self.labels is None else len(np.unique(self.labels[0])),
            "donors": self.donors,
            "seed": self.seed,
        }

    def _check(self, batch: Batch) -> None:
        reference = batch if self.reference is None else self.reference
        if self.labels is not None and tuple(map(len, self.labels)) != (len(batch), len(reference)):
            raise ValueError(
                f"groups must label each of {len(batch)} examples, and of the reference each of {len(reference)} (by "
                f"reference_groups, if these are others); got {len(self.labels[0])} and {len(self.labels[1])} labels"
            )
        self.model.check(batch)
        self.model.check(reference)

    def _groups_of(self, reference: Batch) -> "MeanGroups":
        labels = None if self.labels is None else self.labels[1]
        return MeanGroups.of(self.stack.queries.of(reference), labels, per_position=self.per_position)

    @cached_property
    def _reference_groups(self) -> "MeanGroups":
        assert self.reference is not None
        return self._groups_of(self.reference)

    @cached_property
    def _reference_means(self) -> Array:
        assert self.reference is not None
        return self._means(self._reference_groups, self.reference)

    def _means(self, groups: "MeanGroups", reference: Batch) -> Array:
        return groups.means(self.resources.network(self.model), self.stack, reference, self.resources)


class FixedValues(OneValue):
    """Values that do not depend on the chunk of examples.

    Args:
        values: computes the `[L,P,N,H]`, when they are first needed.
        index: which of the P each position of the batch gets, `[E,T]`.
        runs: forward passes that the values cost.
    """

    def __init__(self, values: Callable[[], Array], index: np.ndarray, runs: int):
        self._compute, self.index, self.runs = values, index, runs

    @cached_property
    def values(self) -> Array:
        """The values `[L,P,N,H]`."""
        return self._compute()

    def of(self, chunk: Chunk) -> Iterator[HeadValues]:
        """Yield the values once."""
        index_BT = chunk.devices.examples(jnp.asarray(self.index[chunk.examples]))
        yield HeadValues(chunk.devices.everywhere(self.values), index_BT)


class ResampledValues(OneValue):
    """Outputs of other examples of a reference, position by position (counted over real tokens).

    Args:
        donors: example numbers in the reference, `[donors,E]`.
    """

    def __init__(self, reference: Batch, donors: np.ndarray):
        self.reference, self.donors = reference, donors
        self.count = self.runs = len(donors)

    def of(self, chunk: Chunk) -> Iterator[HeadValues]:
        """Yield the outputs of each donor in turn."""
        devices, axis = chunk.devices, chunk.stack.queries
        for donor_E in self.donors:
            donors = self.reference.take(donor_E[chunk.examples])
            z_LBSNH = _run_z(chunk.network, devices.examples(donors), stack=chunk.stack.name)
            L, B, S = z_LBSNH.shape[:3]
            # Padding lies on either side: the donor's real columns first, then the position picks one of them.
            column_BS = np.argsort(~np.asarray(axis.of(donors).mask), axis=1, kind="stable")
            column_BT = np.take_along_axis(column_BS, devices.fetch(axis.of(chunk.batch).positions), axis=1)
            index_BT = np.arange(B)[:, None] * S + column_BT
            z_LPNH = z_LBSNH.reshape(L, B * S, *z_LBSNH.shape[3:])
            yield HeadValues(z_LPNH, devices.examples(jnp.asarray(index_BT)))


@dataclass(frozen=True)
class MeanGroups:
    """Groups of a reference's tokens that share a mean: by position (over real tokens), by label, or all together.

    Attributes:
        groups: of the reference's tokens, `[R,S]`; group `position + width * label`.
        counts: how many real tokens each group has, `[P]`.
        known: the labels, sorted.
    """

    groups: np.ndarray
    counts: np.ndarray
    per_position: bool
    width: int
    known: np.ndarray

    @classmethod
    def of(cls, reference: Positions, labels: np.ndarray | None, *, per_position: bool) -> "MeanGroups":
        """Group the tokens of a reference whose examples have these labels `[R]`; None for one label."""
        width = int(np.asarray(reference.lengths).max()) if per_position else 1
        known, label = np.unique(_labels_or_zeros(labels, reference), return_inverse=True)
        groups_RS = _group_positions(reference, per_position) + width * label[:, None]
        counts = np.bincount(groups_RS[np.asarray(reference.mask)], minlength=width * len(known))
        return cls(groups_RS, counts, per_position, width, known)

    def index(self, batch: Positions, labels: np.ndarray | None) -> np.ndarray:
        """Return the group of each position of a batch whose examples have these labels `[E]`: `[E,T]`.

        Raises:
            ValueError: if the reference has no token for a mean that the batch needs.
        """
        label_E, positions_ET = _labels_or_zeros(labels, batch), _group_positions(batch, self.per_position)
        number_E = np.minimum(np.searchsorted(self.known, label_E), len(self.known) - 1)
        groups_ET = np.minimum(positions_ET, self.width - 1) + self.width * number_E[:, None]
        has_mean_ET = (self.known[number_E] == label_E)[:, None] & (positions_ET < self.width)
        has_mean_ET &= self.counts[groups_ET] > 0
        lacking = np.argwhere(np.asarray(batch.mask) & ~has_mean_ET)
        if lacking.size:
            example, column = lacking[0]
            raise ValueError(
                f"the reference has no token for the means of {len(lacking)} tokens, such as position "
                f"{positions_ET[example, column]} of group {label_E[example]}; give a longer or larger reference, or "
                "per_position=False"
            )
        return groups_ET

    def means(self, network: Network, stack: Stack, reference: Batch, resources: Resources) -> Array:
        """Return each head's mean output over the real tokens of each group, `[L,P,N,H]`."""
        devices = resources.devices
        sums = np.zeros((stack.layers, len(self.counts), stack.heads, stack.head_size))
        for chunk in forward_chunks(stack, reference, resources).example_chunks(len(reference)):
            inputs = reference.take(chunk), jnp.asarray(self.groups[chunk]), jnp.asarray(is_new(chunk))
            # Sums are taken on the host in float64: a reference may have millions of tokens.
            sums += devices.fetch(_sum_z(network, *devices.examples(inputs), stack=stack.name, groups=len(self.counts)))
        return jnp.asarray(sums / np.maximum(self.counts, 1)[None, :, None, None], jnp.float32)


def forward_chunks(stack: Stack, batch: Batch, resources: Resources) -> Chunks:
    """Return how many examples run together in whole forward passes."""
    T = max(axis.count(batch) for axis in {stack.queries, stack.keys})
    return Chunks.fitting(
        len(batch),
        tokens=T,
        copy_bytes=forward_bytes(stack, batch),
        memory=resources.memory,
        multiples=(resources.devices.multiples[0], 1),
    )


def choose_donors(
    batch: Positions | Batch, reference: Positions | Batch | None, *, donors: int, seed: int
) -> np.ndarray:
    """Return random donors `[donors,E]`, distinct for each example, long enough for it, and never the example itself.

    Raises:
        ValueError: if an example has fewer than `donors` possible donors.
    """
    lengths_E = np.asarray(batch.lengths)
    lengths_R = lengths_E if reference is None else np.asarray(reference.lengths)
    rng = np.random.default_rng(seed)
    chosen = np.empty((donors, len(lengths_E)), int)
    # Each position takes the donor's output at the same position: a shorter donor has none for the last ones.
    for example, length in enumerate(lengths_E):
        possible = np.flatnonzero(lengths_R >= length)
        possible = possible[possible != example] if reference is None else possible
        if len(possible) < donors:
            raise ValueError(
                f"example {example} has {length} tokens and {len(possible)} other examples at least as long to "
                f"resample from; {donors} are needed. Give a larger reference, or batches of one length"
            )
        chosen[:, example] = rng.choice(possible, donors, replace=False)
    return chosen


def read_labels(groups: ArrayLike | None, reference_groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return labels of the batch `[E]` and of the reference `[R]`, or None; raises ValueError for other shapes."""
    if groups is None:
        if reference_groups is not None:
            raise ValueError("reference_groups label the reference by the batch's groups: give groups as well")
        return None
    own = np.asarray(groups)
    reference = own if reference_groups is None else np.asarray(reference_groups)
    if own.ndim != 1 or reference.ndim != 1:
        raise ValueError(f"groups must be one label for each example, got shapes {own.shape} and {reference.shape}")
    return own, reference


def _labels_or_zeros(labels: np.ndarray | None, positions: Positions) -> np.ndarray:
    return np.zeros(positions.shape[0], int) if labels is None else labels


def _group_positions(positions: Positions, per_position: bool) -> np.ndarray:
    """Return the position of each token, or zeros where one mean is taken over all positions."""
    return np.asarray(positions.positions) if per_position else np.zeros(positions.shape, int)


@partial(jax.jit, static_argnames="stack")
def _run_z(network: Network, batch: Batch, *, stack: str) -> Array:
    """Return every head's output, `[L,B,T,N,H]`."""
    return forward(network, batch, read={stack: lambda values: values["z"]})[1][stack]


@partial(jax.jit, static_argnames=("stack", "groups"))
def _sum_z(network: Network, batch: Batch, group_BT: Array, counts_B: Array, *, stack: str, groups: int) -> Array:
    """Return sums `[L,P,N,H]` of z over the real tokens of each group, in the examples that count (bool `[B]`)."""
    positions = network.stack(stack).queries.of(batch)
    real_BT = (positions.mask & counts_B[:, None]).astype(jnp.float32)

    def read(values: Mapping[str, Array]) -> Array:
        z_BTNH = values["z"].astype(jnp.float32) * real_BT[..., None, None]
        return jax.ops.segment_sum(z_BTNH.reshape(-1, *z_BTNH.shape[2:]), group_BT.reshape(-1), num_segments=groups)

    return forward(network, batch, read={stack: read})[1][stack]
