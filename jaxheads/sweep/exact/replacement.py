"""How a head is ablated: what a user asked for, checked, and turned into the values that replace it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from .values import Donors, Fixed, Slots, choose_donors, zeros
from .work import Prepared, Sweep

METHODS = ("zero", "mean", "resample")


@dataclass(frozen=True)
class Replacement:
    """What replaces a head's output; `jaxheads.ablate` says what the fields mean.

    Attributes:
        labels: groups of the batch's examples `[B]` and of the reference's `[R]`, or None.
    """

    method: str
    reference: Batch | None
    per_position: bool
    labels: tuple[np.ndarray, np.ndarray] | None
    donors: int
    seed: int

    @classmethod
    def of(
        cls,
        method: str,
        reference: Batch | None,
        per_position: bool,
        groups: ArrayLike | None,
        reference_groups: ArrayLike | None,
        donors: int,
        seed: int,
    ) -> "Replacement":
        """From the arguments of `ablate`, as far as they can be checked by themselves.

        Raises:
            ValueError: for an unknown method, or arguments that don't belong to it.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        if donors < 1:
            raise ValueError(f"resampling needs at least one donor, got {donors}")
        labels = _labels(groups, reference_groups)
        if labels is not None and method != "mean":
            raise ValueError(f"groups are what means are taken over; method={method!r} takes none")
        return cls(method, reference, per_position, labels, donors, seed)

    def check_stream(self) -> None:
        """Raise ValueError for what a stream of batches can't answer."""
        if self.method != "zero" and self.reference is None:
            raise ValueError(f"method={self.method!r} over a stream needs a reference: a batch to take values from")
        if self.labels is not None:
            raise ValueError("groups label the examples of one batch; a stream has no labels")

    def check(self, model: Model, batch: Batch) -> None:
        """Raise ValueError if the batch or the reference can't go through the model, or labels don't fit them."""
        given = batch if self.reference is None else self.reference
        if self.labels is not None and tuple(map(len, self.labels)) != (len(batch), len(given)):
            raise ValueError(
                f"groups must label each of {len(batch)} examples, and of the reference each of {len(given)} (by "
                f"reference_groups, if these are others); got {len(self.labels[0])} and {len(self.labels[1])} labels"
            )
        model.check(batch)
        model.check(given)

    def sources(self, part: Stack) -> "StandIns":
        """What replaces heads, batch by batch; a reference is gone through once."""
        return StandIns(self, part)

    def data(self) -> tuple[Any, ...]:
        """The arrays that the answer depends on."""
        return self.reference, self.labels

    def about(self) -> dict[str, Any]:
        """The rest, for provenance."""
        return {
            "method": self.method,
            "per_position": self.per_position,
            "reference": "the batch" if self.reference is None else f"{len(self.reference)} examples",
            "groups": 1 if self.labels is None else len(np.unique(self.labels[0])),
            "donors": self.donors,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class StandIns:
    """From a batch to the values that replace its heads."""

    replacement: Replacement
    part: Stack
    _kept: dict[str, Array] = field(default_factory=dict)

    def of(self, batch: Batch) -> "Prepared":
        """For this batch; nothing runs yet, but what can be seen to be wrong raises ValueError."""
        asked = self.replacement
        if asked.method == "resample":
            given, side = batch if asked.reference is None else asked.reference, self.part.queries.of
            others = None if asked.reference is None else side(given)
            donors = choose_donors(side(batch), others, donors=asked.donors, seed=asked.seed)
            return Prepared(len(donors), lambda _: Donors(given, donors), len(donors))
        if asked.method == "zero":
            return Prepared(1, lambda _: zeros(self.part, batch))
        labels = None if asked.labels is None else asked.labels[0]
        slots = self._slots_of(batch) if asked.reference is None else self._slots
        index_BT = slots.index(self.part.queries.of(batch), labels)
        return Prepared(1, lambda sweep: Fixed(self._means(sweep, slots, batch), index_BT), 1)

    def _slots_of(self, given: Batch) -> Slots:
        asked = self.replacement
        labels = None if asked.labels is None else asked.labels[1]
        return Slots.of(self.part.queries.of(given), labels, per_position=asked.per_position)

    @cached_property
    def _slots(self) -> Slots:
        assert self.replacement.reference is not None
        return self._slots_of(self.replacement.reference)

    def _means(self, sweep: Sweep, slots: Slots, batch: Batch) -> Array:
        if (given := self.replacement.reference) is None:
            return slots.means(sweep, batch)
        if "means" not in self._kept:
            self._kept["means"] = slots.means(sweep, given)
        return self._kept["means"]


def _labels(groups: ArrayLike | None, reference_groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels of the batch `[B]` and of the reference `[R]`."""
    if groups is None:
        if reference_groups is not None:
            raise ValueError("reference_groups label the reference by the batch's groups: give groups as well")
        return None
    ours = np.asarray(groups)
    theirs = ours if reference_groups is None else np.asarray(reference_groups)
    if ours.ndim != 1 or theirs.ndim != 1:
        raise ValueError(f"groups must be one label for each example, got shapes {ours.shape} and {theirs.shape}")
    return ours, theirs
