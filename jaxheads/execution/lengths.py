"""Lengths of batches: padded to a few of them, so that questions about texts of other lengths share their programs.

Every length is a shape of its own, with programs of its own to compile: some seconds, where a small question computes
for tenths of one. A question asks for `Lengths` once, and pads each batch by it, with what its objective reads.

Dimension key: B examples, R rows.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from ..models.inputs.batch import Batch
from ..models.model import Model
from ..objectives import Objective
from ..programs import on_host, platform, to_device
from ..reads import Reads
from .batching import rounded_size
from .cost import forward_flops, pattern_entries

COMPILATION_FLOPS = {"cpu": 5e11}
"""Operations that take less time than compiling a question's programs, about a second; by backend."""
COMPILATION_FLOPS_ELSEWHERE = 1e14

GRADIENT_RUNS = 4.0
"""Forward passes that cost about as much as an objective with its gradient."""

METRIC_FLOPS = 200
"""Operations that all metrics spend on one entry of a pattern, roughly."""

LEAST = 16
"""The shortest length that texts are padded to."""

LONGEST = 512
"""The longest length that is padded to a power of two: beyond, memory would double for few programs."""


@dataclass
class Lengths:
    """The lengths that one question pads its batches to.

    A batch gets the next power of two, or else the next of four lengths in each doubling, if the padding costs less
    than compiling the programs of one more length. All padding of a stream together may cost what compiling the lengths
    that it has shown so far would: batches of a single length are soon left as they are.
    """

    model: Model
    _spent: float = 0.0
    _shown: set[tuple[int, ...]] = field(default_factory=set)

    def alike(self, *batches: Batch, runs: float = 1.0, patterns: bool = False) -> tuple[Batch, ...]:
        """Return batches of one shape, padded alike on the right; as they are where padding does not pay.

        Args:
            runs: forward passes of each example that the question needs, about.
            patterns: whether it measures patterns.
        """
        first = batches[0]
        network = self.model.network
        fields = [name for name in ("tokens", "targets") if getattr(first, name) is not None]
        # A network of a user's own may have been made for one length. SigLIP's text model reads its padding.
        own = not type(network).__module__.startswith("jaxheads.")
        # A mark does not say which of two sequences its positions are of.
        unclear = first.marks is not None and len({stack.queries.kind for stack in network.stacks}) > 1
        if not fields or own or unclear or network.text_length is not None or not all(map(_is_on_host, batches)):
            return batches
        sizes = {name: getattr(first, name).shape[1] for name in fields}
        self._shown.add(tuple(sizes.values()))
        most, before = self._budget() * len(self._shown), self._cost(first, runs, patterns)
        for finer in (0, 2):
            larger = {name: self._rounded(size, finer) for name, size in sizes.items()}
            padded = tuple(lengthened(batch, **larger) for batch in batches)
            spent = self._spent + self._cost(padded[0], runs, patterns) - before
            if spent <= most:
                self._spent = spent
                return padded
        return batches

    def read(
        self, objective: Objective | None, reads: Reads, batch: Batch, *others: Batch, runs: float = 1.0
    ) -> tuple[Any, ...]:
        """Return what the objective reads of a batch, the batch, and others of its shape, padded alike.

        Args:
            objective: None for reads of our own.
            runs: as in `alike`.
        """
        padded, *others_padded = self.alike(batch, *others, runs=runs)
        if padded is batch:
            return reads, batch, *others
        axis = self.model.network.streams[-1].queries
        if objective is None or type(objective).__module__.startswith("jaxheads."):
            reads = _with_rows(reads, axis.count(batch), axis.count(padded))
        return reads, padded, *others_padded

    def _rounded(self, size: int, finer: int) -> int:
        """Return the next length with this many bits after the leading one, within the model's context."""
        context = getattr(self.model.config, "max_position_embeddings", None)
        larger = max(LEAST, 1 << (size - 1).bit_length())
        if finer or larger > LONGEST:
            larger = max(LEAST, rounded_size(size, larger))
        return larger if context is None or size > context else min(larger, context)

    def _cost(self, batch: Batch, runs: float, patterns: bool) -> float:
        """Return the operations that the question spends on a batch, about."""
        streams = self.model.running_streams(batch)
        flops = forward_flops(streams, batch) * runs
        entries = pattern_entries(streams, batch) * METRIC_FLOPS if patterns else 0
        return len(batch) * (flops + entries)

    @staticmethod
    def _budget() -> float:
        return COMPILATION_FLOPS.get(platform(), COMPILATION_FLOPS_ELSEWHERE)


@dataclass(frozen=True, eq=False)
class Known:
    """An objective whose reads are those of one padded batch, which it can't make of that batch itself.

    Attributes:
        objective: as a user gave it, for whose own batch it was made.
        known: the reads.
        name, value: the objective's own.
    """

    objective: Objective
    known: Reads
    name: str
    value: Any

    @classmethod
    def of(cls, objective: Objective, reads: Reads) -> "Known":
        """Return an objective with what it reads."""
        return cls(objective, reads, objective.name, objective.value)

    def reads(self, model: Model, batch: Batch) -> Reads:
        """Return the reads of the padded batch."""
        del model, batch
        return self.known


def sweep_runs(cells: int) -> float:
    """Return about how many forward passes an example costs in a sweep over cells: a copy runs half of the layers."""
    return 1 + cells / 2


def longer(array: Any, size: int, axis: int = 1, *, value: Any = 0) -> np.ndarray:
    """Return an array with one axis filled up to a size by a value, or by its own last entry for None."""
    array = np.asarray(array)
    width = [(0, size - array.shape[axis] if own == axis else 0) for own in range(array.ndim)]
    return np.pad(array, width, mode="edge") if value is None else np.pad(array, width, constant_values=value)


def lengthened(batch: Batch, *, tokens: int | None = None, targets: int | None = None) -> Batch:
    """Return a batch with padding on the right, up to these lengths; marks must be of one sequence."""
    # Padding goes on with the number of the text before it: it must not make one more text.
    fillers = {"tokens": 0, "mask": 0, "token_types": 0, "segments": None, "words": -1, "targets": 0, "target_mask": 0}
    more: dict[str, Any] = {}
    for name, value in fillers.items():
        field, length = getattr(batch, name), targets if name.startswith("target") else tokens
        if field is not None and length is not None:
            more[name] = to_device(longer(field, length, value=value))
    if batch.marks is not None:
        length = targets if tokens is None else tokens
        assert length is not None, "there is a sequence to lengthen"
        # Marks of pairs have two axes of positions.
        more["marks"] = {
            name: to_device(longer(mark if mark.ndim == 2 else longer(mark, length, 2), length))
            for name, mark in batch.marks.items()
        }
    fields = {key.name: value for key, value in batch.tree_flatten_with_keys()[0]}
    return Batch.tree_unflatten(None, (fields | more).values())


def _with_rows(reads: Reads, before: int, after: int) -> Reads:
    """Return reads with rows that weigh nothing, in a number that depends on the padded length alone."""
    B, R = reads.rows.shape
    weighted = reads.shares if reads.shares is not None else reads.weight
    # Of a few rows the number says nothing about the length, and fields of other meanings could have their shape.
    if weighted is None or weighted.shape != (B, R) or not 2 < R <= before:
        return reads
    size = min(after, after - (before - R) if before - 1 <= R else (1 << R.bit_length()) - 1)
    weights = {
        name: to_device(longer(getattr(reads, name), size))
        for name in ("weight", "shares")
        if getattr(reads, name) is not None and getattr(reads, name).shape == (B, R)
    }
    others = {
        name: to_device(longer(getattr(reads, name), size, value=None))
        for name in ("rows", "target", "expected")
        if getattr(reads, name) is not None and getattr(reads, name).shape == (B, R)
    }
    return replace(reads, **weights, **others)


def _is_on_host(batch: Batch) -> bool:
    return all(on_host(field) is not None for field in jax.tree.leaves(batch))
