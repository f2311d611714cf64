"""Activation patching: what happens to one run when it is given some of another run's values.

Zhang & Nanda 2024 (arXiv 2309.16042) say how to read it: three runs (clean, corrupted, patched), corrupted prompts of
equal length, a logit difference, and the effect as a share of the whole difference.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax import Array

from ...execution.devices import Devices
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack, run_block
from ...objectives import Objective
from ...tables import HeadTable
from ..grid import check_by, grid
from ..question import SweepAsked, answer
from .engine import Site, run_unedited
from .plan import bucket
from .work import Prepared, Resources, Sweep

DIRECTIONS = ("denoising", "noising")

Pair = tuple[Batch, Batch] | tuple[Batch, Batch, Objective]


def patch(
    model: Model,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None = None,
    objective: Objective | None = None,
    site: str = "z",
    by: Sequence[str] = ("layer", "head"),
    *,
    direction: Literal["denoising", "noising"] = "denoising",
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """Give one run the other's values at one place after the other.

    Args:
        clean: the inputs as they are; or a stream of pairs (clean, corrupt), each with an objective of its own if it
            needs one, `corrupt` then being left out.
        corrupt: the same inputs with what matters replaced, token for token: shape and mask are those of `clean`.
        site: "z", "q", "k", "v", "scores", "pattern", or a site of the stream: "resid_pre", "attn_out", "resid_mid",
            "mlp_out", "resid_post"; with its stack's prefix where the model has several stacks.
        by: ("layer", "head"), ("layer",), ("layer", "position") or ("layer", "head", "position"). Heads are key/value
            heads at `k` and `v`. Positions count real tokens; at `scores` and `pattern` they are those of queries.
        direction: "denoising" puts the clean run's values into the corrupt run, "noising" the corrupt run's into the
            clean run.
        stack, seed, level, memory, devices, progress, resume: as in `ablate`.

    Returns:
        One row a cell, columns `effect`, `objective(patched) - objective(unpatched)` in units of the objective, and
        `normalised`, the same as a share of the whole difference between the two runs: 1 where one cell carries all of
        it (Zhang & Nanda 2024, section 2; the ratio of means, not the mean of ratios). NaN where an example has no
        such position, or where the runs do not differ.

    Raises:
        ValueError: for runs that do not fit each other, an unknown site, axis or direction, heads asked of a site that
            has none, or an objective that the model can't give.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
    name, site = model.site(site if stack is None or "." in site else f"{stack}.{site}")
    check_by(site, by)
    asking = _Asking(
        model, model.stack(name), site, tuple(by), direction == "noising", Resources(memory, Devices.of(devices))
    )
    stream = not isinstance(clean, Batch)
    return answer(
        "patch",
        (asking.of(*each) for each in pairs(clean, corrupt, objective)),
        {"site": site, "by": list(by), "direction": direction},
        stream=stream,
        level=level,
        seed=seed,
        progress=progress,
        resume=resume,
    )


def check_pair(model: Model, clean: Batch, corrupt: Batch) -> None:
    """Raise ValueError unless both runs can go through the model and differ in their tokens only."""
    model.check(clean)
    model.check(corrupt)
    for axis in {stack.queries for stack in model.network.streams}:
        ours, theirs = axis.of(clean), axis.of(corrupt)
        if ours.shape != theirs.shape or not np.array_equal(ours.mask, theirs.mask):
            raise ValueError(
                f"clean and corrupt must have the same shape and the same padding, so that each of the {axis.kind} "
                f"has its counterpart; got {ours.shape} and {theirs.shape} with "
                f"{np.asarray(ours.lengths).tolist()[:8]} and {np.asarray(theirs.lengths).tolist()[:8]} {axis.kind}"
            )


def first_difference(stack: Stack, clean: Batch, corrupt: Batch) -> int:
    """The first position of a causal stack that any example's differences can reach; their number where there are
    none. 0 where the stack sees more than its own tokens, and those differ."""
    axis = stack.queries
    others = [field for field in ("tokens", "targets", "pixels", "features") if field != axis.kind]
    if any(not np.array_equal(getattr(clean, field), getattr(corrupt, field)) for field in others):
        return 0
    ours, theirs = axis.of(clean), axis.of(corrupt)
    differs_BT = np.asarray(ours.ids) != np.asarray(theirs.ids)
    if axis.kind == "tokens":
        differs_BT |= np.asarray(clean.token_types) != np.asarray(corrupt.token_types)
    columns = np.flatnonzero((differs_BT & np.asarray(ours.mask)).any(axis=0))
    return int(columns[0]) if columns.size else ours.shape[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OtherRun:
    """Another run's values of any site of a stack: made from its stream, one layer at a time.

    Attributes:
        resid_pre: what each layer of the stack reads, `[L,B,T,D]`.
        context: what its layers know.
    """

    resid_pre: Array
    context: AttentionInputs
    where: None = None

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """The site's values in one layer."""
        return run_block(stack.block(layer), self.resid_pre[layer], self.context)[1][site]


@partial(jax.jit, static_argnames="stack")
def other_run(network: Network, batch: Batch, *, stack: str) -> OtherRun:
    """Run the batch, keeping one stack's stream."""
    kept: dict[str, OtherRun] = {}

    def run_stack(here: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, found = here.run(x_BTD, context, read={stack: lambda seen: seen["resid_pre"]})
        if found:
            own = context if here.name == stack else context.cross
            assert own is not None
            kept[stack] = OtherRun(found[stack], own)
        return x_BTD

    network.hidden(batch, run_stack)
    return kept[stack]


@dataclass(frozen=True)
class Others:
    """The other run of each piece of examples."""

    given: Batch

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[OtherRun]:
        """One: that of the same examples."""
        del piece
        given = sweep.room.devices.examples(self.given.take(examples))
        yield other_run(sweep.network, given, stack=sweep.stack.name)


@dataclass(frozen=True)
class _Asking:
    """All that is asked, but for the pair."""

    model: Model
    stack: Stack
    site: str
    by: tuple[str, ...]
    swapped: bool
    room: Resources

    def of(self, clean: Batch, corrupt: Batch, objective: Objective) -> SweepAsked:
        """Of one pair; raises ValueError before anything runs."""
        check_pair(self.model, clean, corrupt)
        base, given = (clean, corrupt) if self.swapped else (corrupt, clean)
        reads = objective.reads(self.model, base)
        T = self.stack.queries.count(base)
        first = int(bucket(min(first_difference(self.stack, clean, corrupt), T - 1), T)) if self.stack.causal else 0
        cells = grid(self.stack, self.site, base, self.by, first)
        others = Prepared(1, lambda _: Others(given), 2)
        sweep = Sweep.planned(self.model, self.stack, base, objective, reads, others, cells.steps, self.room)
        identity = (given, self.site, repr(self.by), self.swapped)
        return SweepAsked(sweep, cells, identity, partial(self._unpatched, sweep, given))

    def _unpatched(self, sweep: Sweep, given: Batch) -> np.ndarray:
        """The objective of the other run, `[E]`."""
        site, value_E = Site(self.stack.name, "resid_pre"), np.empty(len(given))
        devices = self.room.devices
        for piece in sweep.plan.pieces.example_pieces(len(given)):
            batch, reads = devices.examples((given.take(piece), sweep.reads.take(piece)))
            found = run_unedited(sweep.network, batch, reads, site=site, value=sweep.objective.value)
            value_E[piece] = devices.fetch(found.value)
        return value_E


def pairs(
    clean: Batch | Iterable[Pair], corrupt: Batch | None, objective: Objective | None
) -> Iterator[tuple[Batch, Batch, Objective]]:
    """One pair, or a stream's, each with its objective: its own, if it brings one, else the common one.

    Raises:
        ValueError: where a batch or an objective is missing, or a corrupt batch stands beside a stream.
    """
    if isinstance(clean, Batch):
        if corrupt is None or objective is None:
            raise ValueError("patching needs a clean batch, a corrupt one and an objective")
        yield clean, corrupt, objective
        return
    if corrupt is not None:
        raise ValueError("a stream gives pairs (clean, corrupt): leave corrupt out")
    for one in clean:
        own = one[2] if len(one) > 2 else objective
        if own is None:
            raise ValueError("an objective is needed: give one for all, or with each pair of a stream")
        yield one[0], one[1], own
