"""Ablation: what happens to the objective when heads' outputs are taken away."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective
from ...statistics import bootstrap_mean
from ...tables import Column, HeadTable
from ..grid import Grid, Heads, check_by, grid, set_grid
from ..question import SweepAsked, answer
from .replacement import Replacement, StandIns
from .work import Resources, Sweep

Inputs = Batch | Iterable[Batch] | Iterable[tuple[Batch, Objective]]


def ablate(
    model: Model,
    batch: Inputs,
    objective: Objective | None = None,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    by: Sequence[str] = ("layer", "head"),
    sets: Mapping[str, Heads] | None = None,
    reference: Batch | None = None, per_position: bool = False,
    groups: ArrayLike | None = None, reference_groups: ArrayLike | None = None,
    donors: int = 1, stack: str | None = None, seed: int = 0, level: float = 0.95,
    memory: int = 1 << 30, devices: jax.sharding.Mesh | None = None,
    progress: bool = False, resume: str | os.PathLike | None = None,
) -> HeadTable:  # fmt: skip
    """Replace heads' outputs and see how the objective changes, for every example.

    An effect is `objective(ablated) - objective(unedited)`, per example, then averaged; its interval is a bootstrap
    over examples. Equal to a whole forward pass with `z` of those heads replaced, but nothing is computed that the
    replacement cannot change.

    Args:
        batch: the inputs; or a stream of batches without end, each with an objective of its own if it needs one. All
            of a stream's examples count and few are kept (see `statistics.GroupedRows`): memory is bounded.
        method: what replaces a head's `z`: "zero"; "mean", over the reference's examples and real positions;
            "resample", that of another example of the reference at the same position.
        by: ("layer", "head"), one head at a time; ("layer",), all heads of a layer; ("layer", "head", "position"), one
            head at one position, counted over real tokens.
        sets: instead of `by`: named sets of (layer, head) pairs, each ablated as a whole; see `cumulative`.
        reference: for "mean" and "resample"; the batch itself when left out (a stream needs one).
        per_position: take the mean for each position (counted over real tokens) by itself.
        groups: labels `[B]`: take the mean for each group by itself (the template, in Wang et al. 2022).
        reference_groups: labels of the reference's examples `[R]`; those in `groups`, in their order, when left out.
        donors: for "resample", how many other examples each effect is averaged over.
        stack: which stack's heads; the only one when left out.
        seed, level: of donors and of the bootstrap; of the interval.
        memory: bytes for the activations of one piece of work, on each device.
        progress: show a progress bar.
        resume: a directory: finished parts are written there (parquet), and a later call with the same question goes
            on from them.

    Returns:
        One row a cell, columns `effect effect_low effect_high`; `.values` on the grid, `.per_example` `[E, *grid]`
        (None beyond a stream's 2,048 examples). An effect that is not finite counts as missing and is named in
        `.provenance["not_finite"]`; `.provenance["unedited"]` is the objective's mean in the unedited run.

    Raises:
        ValueError: for an unknown method, stack or axis, an objective that the model can't give, a head that is not
            there, or a reference or groups that do not fit the batch.
    """
    replacement = Replacement.of(method, reference, per_position, groups, reference_groups, donors, seed)
    part, stream = model.stack(stack), not isinstance(batch, Batch)
    if stream:
        replacement.check_stream()
    asking = _Asking(
        model, part, replacement, replacement.sources(part), by, sets, Resources(memory, Devices.of(devices))
    )
    about = {**replacement.about(), "by": None if sets else list(by), "sets": None if sets is None else list(sets)}
    return answer(
        "ablate", (asking.of(*each) for each in with_objectives(batch, objective)), about,
        stream=stream, level=level, seed=seed, progress=progress, resume=resume,
        extras=None if sets is None else lambda: {"heads": _names(sets)},
    )  # fmt: skip


def cumulative(order: Heads) -> dict[str, list[tuple[int, int]]]:
    """Sets for `ablate` that grow by one head at a time, in the order given; the n-th is named "n"."""
    heads = [(int(layer), int(head)) for layer, head in order]
    return {str(count): heads[:count] for count in range(1, len(heads) + 1)}


def interactions(
    model: Model,
    batch: Batch,
    objective: Objective,
    heads: Heads,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> HeadTable:
    """What two heads do together beyond what each does alone: effect(both) − effect(one) − effect(other).

    0 for heads that add up. Backup heads (Wang et al. 2022, section 3.4) show here: removing both costs more than the
    sum.

    Args:
        heads: at least two (layer, head) pairs, each once.
        options: others of `ablate`, beside `by` and `sets`.

    Returns:
        Axes ("first", "second"), places in `heads`; columns `interaction` and `effect` (of both), and the heads' names
        as extras. Symmetric; on the diagonal `effect` is that of the head alone and `interaction` is NaN.

    Raises:
        ValueError: for fewer than two heads or one named twice, and as `ablate` does.
    """
    names = [f"{layer}.{head}" for layer, head in heads]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"interactions are between at least two heads, each named once; got {names}")
    count = len(names)
    first, second = np.triu_indices(count)
    sets = {
        f"{names[a]} {names[b]}": [heads[a]] if a == b else [heads[a], heads[b]]
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    }
    table = ablate(model, batch, objective, method, sets=sets, level=level, seed=seed, **options)
    assert table.per_example is not None, "of one batch all examples are kept"
    together_EHH = np.empty((len(batch), count, count))
    together_EHH[:, first, second] = together_EHH[:, second, first] = table.per_example
    alone_EH = np.diagonal(together_EHH, axis1=1, axis2=2)
    beyond_EHH = together_EHH - alone_EH[:, :, None] - alone_EH[:, None, :]
    beyond_EHH[:, np.arange(count), np.arange(count)] = np.nan
    columns = {
        name: Column(*bootstrap_mean(values, level=level, seed=seed), values)
        for name, values in {"interaction": beyond_EHH, "effect": together_EHH}.items()
    }
    named = np.broadcast_to(np.array(names)[:, None], (count, count))
    extras = {"first_head": named, "second_head": named.T}
    axes = ("first", "second")
    return HeadTable.from_columns("interactions", table.stack, columns, table.provenance, axes=axes, extras=extras)


def with_objectives(inputs: Inputs, objective: Objective | None) -> Iterator[tuple[Batch, Objective]]:
    """Each input with its objective: its own, if it brings one, else the common one.

    Raises:
        ValueError: where there is neither.
    """
    for each in [inputs] if isinstance(inputs, Batch) else inputs:
        batch, own = each if isinstance(each, tuple) else (each, objective)
        if own is None:
            raise ValueError("an objective is needed: give one for all, or with each batch of a stream")
        yield batch, own


@dataclass(frozen=True)
class _Asking:
    """All that is asked, but for the batch."""

    model: Model
    part: Stack
    replacement: Replacement
    stand_ins: StandIns
    by: Sequence[str]
    sets: Mapping[str, Heads] | None
    room: Resources

    def of(self, batch: Batch, objective: Objective) -> SweepAsked:
        """Of one batch; raises ValueError before anything runs."""
        self.replacement.check(self.model, batch)
        reads = objective.reads(self.model, batch)
        cells = self._grid(batch)
        prepared = self.stand_ins.of(batch)
        sweep = Sweep.planned(self.model, self.part, batch, objective, reads, prepared, cells.steps, self.room)
        words = (self.replacement.about(), repr(self.by), repr(self.sets))
        return SweepAsked(sweep, cells, (self.replacement.data(), words))

    def _grid(self, batch: Batch) -> Grid:
        if self.sets is not None:
            return set_grid(self.part, "z", self.sets)
        if "head" not in check_by("z", self.by) and "position" in self.by:
            raise ValueError(f"ablation is by head, by layer, or by head and position; got {tuple(self.by)}")
        return grid(self.part, "z", batch, self.by)


def _names(sets: Mapping[str, Heads]) -> np.ndarray:
    """What is in each set, in words."""
    return np.array([f"{name}: {' '.join(f'{layer}.{head}' for layer, head in heads)}" for name, heads in sets.items()])
