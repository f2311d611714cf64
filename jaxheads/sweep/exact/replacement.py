"""Replacements of an ablated head's output: zeros, a mean over a reference, or another example's output.

Dimension key: E examples of the batch, R of the reference, B of a chunk, T positions of the batch, S of the reference,
P values to choose from, L layers, N heads, H head dimension.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...checks import one_of
from ...execution.batching import Chunks, is_new
from ...execution.cost import forward_bytes
from ...execution.resources import Resources
from ...models.inputs.batch import Batch, Positions
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...programs import compiled, to_device
from .engine import SiteValues
from .mean_groups import Labels, MeanGroups, Means, check_labels, leave_own_out, sum_groups
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExampleValues:
    """Outputs that replace heads' own, each position of each example by one of its own, `[L,B,T,N,H]`."""

    values: Array
    where: None = None

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """Return the values of one layer, `[B,T,N,H]`."""
        del stack, site
        return self.values[layer]


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
        labels: groups of the batch's examples and of the reference's, or None.
        means: the groups that means are taken of, once `settled` has chosen them.
    """

    model: Model
    stack: Stack
    resources: Resources
    method: str
    reference: Batch | None = None
    per_position: bool | None = None
    labels: Labels | None = None
    donors: int = 1
    seed: int = 0
    means: MeanGroups | None = None

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if self.labels is not None and self.method != "mean":
            raise ValueError(f"groups are what means are taken over; method={self.method!r} takes none")

    def check_stream(self) -> None:
        """Raise ValueError for what a stream of batches can't answer."""
        if self.method != "zero" and self.reference is None:
            raise ValueError(f"method={self.method!r} over a stream needs a reference: a batch to take values from")
        if self.labels is not None:
            raise ValueError("groups label the examples of one batch; a stream has no labels")

    def settled(self, batch: Batch) -> "Replacement":
        """Return the replacement with its groups of means chosen for this batch; nothing runs yet.

        The choice holds for all batches of a stream, so that a table never mixes means of two kinds.

        Raises:
            ValueError: as `of` does.
        """
        self._check(batch)
        if self.method != "mean" or self.means is not None:
            return self
        axis, own = self.stack.queries, self.reference is None
        reference = axis.of(batch if self.reference is None else self.reference)
        chosen = MeanGroups.choose(reference, axis.of(batch), self.labels, per_position=self.per_position, own=own)
        return replace(self, means=chosen)

    def of(self, batch: Batch, first: int = 0) -> ValueSource:
        """Return the values for a batch; nothing runs yet.

        Args:
            first: the number of the batch's first example in its stream, which decides donors together with the seed.

        Raises:
            ValueError: if batch or reference can't go through the model, labels or donors don't fit them, or a mean
                would be of too few examples.
        """
        self._check(batch)
        positions = self.stack.queries.of
        if self.method == "zero":
            zeros = partial(_zeros, self.stack.layers, self.stack.heads, self.stack.head_size)
            return FixedValues(zeros, np.zeros(positions(batch).shape, int), 0)
        if self.method == "resample":
            reference = batch if self.reference is None else self.reference
            others = None if self.reference is None else positions(reference)
            donors = choose_donors(positions(batch), others, donors=self.donors, seed=self.seed, first=first)
            return ResampledValues(reference, donors)
        means, index_ET = self._means, self._index(batch)
        if self.reference is None:
            return OtherExamplesMeans(partial(self._means_over, batch), means, index_ET)
        # A stream asks again with each batch: the reference is run once for all of them.
        return FixedValues(self._values_of_reference, index_ET, 1)

    def pooled_means(self) -> Array:
        """Return each head's mean output over all tokens of the reference, `[L,1,N,H]`."""
        assert self.reference is not None, "a mean that holds at all positions is over a reference"
        return replace(self, per_position=False, means=None).settled(self.reference)._values_of_reference()

    @property
    def identity(self) -> tuple[Any, ...]:
        """Arrays that the answer depends on."""
        return self.reference, self.labels

    @property
    def about(self) -> dict[str, Any]:
        """Words for the provenance, which the answer depends on as well."""
        about = {
            "method": self.method,
            "reference": "the batch" if self.reference is None else f"{len(self.reference)} examples",
            "groups": 1 if self.labels is None else len(np.unique(self.labels[0])),
            "donors": self.donors,
            "seed": self.seed,
        }
        return about if self.means is None else about | {"means": self.means.layout}

    def counted(self, batch: Batch, before: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the least number of examples of a mean of this batch, and of those `before` it, for the provenance."""
        if self.means is None:
            return {}
        least = self.means.least_examples(self.stack.queries.of(batch), self._own_labels) - self.means.own
        return {"mean_examples": min([least, *(before or {}).values()])}

    @property
    def _means(self) -> MeanGroups:
        assert self.means is not None, "groups of means are chosen by `settled`, before values are asked for"
        return self.means

    @property
    def _own_labels(self) -> np.ndarray | None:
        return None if self.labels is None else self.labels[0]

    def _check(self, batch: Batch) -> None:
        reference = batch if self.reference is None else self.reference
        check_labels(self.labels, batch, reference)
        # A donor gives its outputs position by position: an example of several texts has no such positions.
        packed = self.method != "resample"
        self.model.check(batch, packed=packed)
        self.model.check(reference, packed=packed)

    def _index(self, batch: Batch) -> np.ndarray:
        return self._means.index(self.stack.queries.of(batch), self._own_labels)

    @cached_property
    def _reference_values(self) -> Array:
        assert self.reference is not None
        return self._means_over(self.reference).values

    def _values_of_reference(self) -> Array:
        return self._reference_values

    def _means_over(self, reference: Batch) -> Means:
        return mean_outputs(self.resources.network(self.model), self.stack, reference, self._means, self.resources)


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
        index_BT = chunk.devices.examples(to_device(self.index[chunk.examples]))
        yield HeadValues(chunk.devices.everywhere(self.values), index_BT)


class OtherExamplesMeans(OneValue):
    """Means over the batch's other examples: each example is left out of its own.

    Args:
        means: computes the means `[L,P,N,H]` over all examples, when they are first needed.
        index: the group of each position of the batch, `[E,T]`.
    """

    runs = 1

    def __init__(self, means: Callable[[], Means], groups: MeanGroups, index: np.ndarray):
        self._compute, self.groups, self.index = means, groups, index

    @cached_property
    def means(self) -> Means:
        """The means over all examples, `[L,P,N,H]`."""
        return self._compute()

    def of(self, chunk: Chunk) -> Iterator[ExampleValues]:
        """Yield the means of each position."""
        devices, real_BT = chunk.devices, chunk.stack.queries.of(chunk.batch).mask
        assert chunk.z is not None, "means replace z"
        group_BT = devices.examples(to_device(self.index[chunk.examples]))
        means, tokens = devices.everywhere((self.means, to_device(self.groups.tokens)))
        yield ExampleValues(leave_own_out(means, chunk.z, group_BT, real_BT, tokens))


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
            donors = self.reference.model_inputs.take(donor_E[chunk.examples])
            z_LPNH = _run_z(chunk.network, devices.examples(donors), stack=chunk.stack.name)
            B, S = axis.of(donors).shape
            # Padding lies on either side: the donor's real columns first, then the position picks one of them.
            column_BS = np.argsort(~np.asarray(axis.of(donors).mask), axis=1, kind="stable")
            column_BT = np.take_along_axis(column_BS, devices.fetch(axis.of(chunk.batch).positions), axis=1)
            index_BT = np.arange(B)[:, None] * S + column_BT
            yield HeadValues(z_LPNH, devices.examples(to_device(index_BT)))


def _zeros(layers: int, heads: int, size: int) -> Array:
    return jnp.zeros((layers, 1, heads, size))


def mean_outputs(network: Network, stack: Stack, reference: Batch, groups: MeanGroups, resources: Resources) -> Means:
    """Return each head's mean output over the real tokens of each group of a reference, `[L,P,N,H]`."""
    devices, size = resources.devices, len(groups.tokens)
    sums = np.zeros((2, stack.layers, size, stack.heads, stack.head_size))
    for chunk in forward_chunks(stack, reference, resources).example_chunks(len(reference)):
        inputs = reference.model_inputs.take(chunk), to_device(groups.groups[chunk]), to_device(is_new(chunk))
        # Sums are taken on the host in float64: a reference may have millions of tokens.
        sums += devices.fetch(_sum_z(network, *devices.examples(inputs), stack=stack.name, groups=size))
    finite = sums[0] / np.maximum(groups.tokens, 1)[None, :, None, None]
    return Means(to_device(finite, np.float32), to_device(sums[1], np.float32))


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
    batch: Positions | Batch, reference: Positions | Batch | None, *, donors: int, seed: int, first: int = 0
) -> np.ndarray:
    """Return random donors `[donors,E]`, distinct for each example, long enough for it, and never the example itself.

    An example's donors depend on the seed and on its number in the stream, `first` plus its index: examples of
    different batches draw independently, and how a stream is cut into batches changes nothing.

    Raises:
        ValueError: if an example has fewer than `donors` possible donors.
    """
    lengths_E = np.asarray(batch.lengths)
    lengths_R = lengths_E if reference is None else np.asarray(reference.lengths)
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
        # A generator of its own for each example: a draw must not depend on the examples before it.
        chosen[:, example] = np.random.default_rng((seed, first + example)).choice(possible, donors, replace=False)
    return chosen


@partial(compiled, static_argnames="stack")
def _run_z(network: Network, batch: Batch, *, stack: str) -> Array:
    """Return every head's output at each position of each example, one after the other, `[L,B*T,N,H]`."""
    z_LBTNH = forward(network, batch, read={stack: lambda values: values["z"]})[1][stack]
    return z_LBTNH.reshape(len(z_LBTNH), -1, *z_LBTNH.shape[3:])


@partial(compiled, static_argnames=("stack", "groups"))
def _sum_z(network: Network, batch: Batch, group_BT: Array, counts_B: Array, *, stack: str, groups: int) -> Array:
    """Return `sum_groups` of z, `[2,L,P,N,H]`, in the examples that count (bool `[B]`)."""
    positions = network.stack(stack).queries.of(batch)
    real_BT = positions.mask & counts_B[:, None]

    def read(values: Mapping[str, Array]) -> Array:
        z_BTNH = values["z"]
        return sum_groups(z_BTNH.reshape(1, *z_BTNH.shape[:2], -1), group_BT, real_BT, groups)[:, 0]

    sums_L2PF = forward(network, batch, read={stack: read})[1][stack]
    attended = network.stack(stack)
    return jnp.moveaxis(sums_L2PF, 0, 1).reshape(2, len(sums_L2PF), groups, attended.heads, attended.head_size)
