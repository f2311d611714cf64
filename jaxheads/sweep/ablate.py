"""Ablation: what happens to the objective when a head's output is taken away."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..models.batch import Batch
from ..models.model import Model
from ..models.stack import Stack
from ..objectives import Objective, Reads
from ..progress import progress as show_progress
from ..provenance import environment
from ..statistics import bootstrap_mean
from ..tables import Column, HeadTable
from .engine import Bank, Clean, replace_each_head, run_clean
from .plan import Chunks, choose_chunks
from .runs import Journal, fingerprint
from .stand_ins import Donors, Means, StandIns, choose_donors, means, zeros

METHODS = ("zero", "mean", "resample")


def ablate(
    model: Model,
    batch: Batch,
    objective: Objective,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    reference: Batch | None = None,
    per_position: bool = False,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
    memory: int = 1 << 30,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of ablating each head, one at a time, on every example.

    An effect is `objective(ablated) - objective(unedited)`, per example, then averaged; its interval is a bootstrap
    over examples. Equal to a whole forward pass with `z` of that head replaced, but nothing is computed that the
    replacement cannot change.

    Args:
        method: what replaces the head's `z`: "zero"; "mean", its mean over the reference's examples and real
            positions; "resample", that of another example of the reference at the same position.
        reference: for "mean" and "resample"; the batch itself when left out.
        per_position: take the mean for each position (counted over real tokens) by itself.
        groups: labels `[B]`: take the mean for each group by itself (the template, in Wang et al. 2022).
        reference_groups: labels of the reference's examples `[R]`; the same as `groups`, in the same order, when
            left out.
        donors: for "resample", how many other examples each effect is averaged over.
        stack: which stack's heads; the only one when left out.
        seed: of donors and of the bootstrap.
        level: of the interval.
        memory: bytes for the activations of one piece of work.
        progress: show a progress bar.
        resume: a directory: finished pieces are written there, and a later call with the same question goes on from
            them.

    Returns:
        One row a head, columns `effect effect_low effect_high`; `.values` `[L,N]`, `.per_example` `[E,L,N]`. An
        effect that is not finite counts as missing and is named in `.provenance["not_finite"]`;
        `.provenance["unedited"]` is the objective's mean in the unedited run.

    Raises:
        ValueError: for an unknown method or stack, an objective that the model can't give, or a reference or groups
            that do not fit the batch.
    """
    given = batch if reference is None else reference
    choice = {"method": method, "per_position": per_position, "donors": donors, "seed": seed}
    labels = _labels(groups, reference_groups)
    _check(model, batch, given, method, donors, labels)
    part = model.stack(stack)
    reads = objective.reads(model, batch)
    chunks = choose_chunks(part, batch, reads, vocabulary=model.config.vocab_size, memory=memory)
    stand_ins = _stand_ins(model, part, batch, reference, chunks, labels, **choice)
    words = {**choice, "own": reference is None, "stack": part.name}
    journal = _journal(resume, model, (batch, reads, given, labels), words, objective)
    question = _Question(model, part, batch, reads, objective, stand_ins, chunks)
    with show_progress(len(batch) * part.layers, f"ablating {part.layers * part.heads} heads", progress) as advance:
        unedited_E, effects_ELN = question.sweep(journal, advance)
    about = {
        "model": model.name,
        "weights": model.identity(),
        "objective": objective.name,
        "examples": len(batch),
        "reference": "the batch" if reference is None else f"{len(reference)} examples",
        "groups": 1 if labels is None else len(np.unique(labels[0])),
        **choice,
    }
    return _table(part.name, unedited_E, effects_ELN, about, level=level, seed=seed)


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


def _check(
    model: Model,
    batch: Batch,
    given: Batch,
    method: str,
    donors: int,
    labels: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if donors < 1:
        raise ValueError(f"resampling needs at least one donor, got {donors}")
    if labels is not None and method != "mean":
        raise ValueError(f"groups are what means are taken over; method={method!r} takes none")
    if labels is not None and (len(labels[0]), len(labels[1])) != (len(batch), len(given)):
        raise ValueError(
            f"groups must label each of {len(batch)} examples, and of the reference each of {len(given)} (by "
            f"reference_groups, if these are others); got {len(labels[0])} and {len(labels[1])} labels"
        )
    model.check(batch)
    model.check(given)


def _stand_ins(
    model: Model,
    part: Stack,
    batch: Batch,
    reference: Batch | None,
    chunks: Chunks,
    labels: tuple[np.ndarray, np.ndarray] | None,
    *,
    method: str,
    per_position: bool,
    donors: int,
    seed: int,
) -> StandIns:
    if method == "zero":
        return zeros(part, batch)
    given = batch if reference is None else reference
    if method == "mean":
        over = Means(per_position, labels)
        return means(model, part, batch, given, over, chunks.example_pieces(len(given)))
    return Donors(model, part.name, given, choose_donors(batch, reference, donors=donors, seed=seed))


def _journal(
    resume: str | os.PathLike | None, model: Model, data: Any, choice: dict[str, Any], objective: Objective
) -> Journal:
    question = "" if resume is None else fingerprint(model, data, choice, objective.name)
    return Journal(resume, f"ablate-{question}")


def _table(
    stack: str, unedited_E: np.ndarray, effects_ELN: np.ndarray, about: dict[str, Any], *, level: float, seed: int
) -> HeadTable:
    finite = np.isfinite(effects_ELN)
    lost = [dict(zip(("example", "layer", "head"), map(int, where), strict=True)) for where in np.argwhere(~finite)]
    effects_ELN = np.where(finite, effects_ELN, np.nan)
    column = Column(*bootstrap_mean(effects_ELN, level=level, seed=seed), effects_ELN)
    known_E = unedited_E[np.isfinite(unedited_E)]
    unedited = float(known_E.mean()) if known_E.size else None
    about = {**about, "unedited": unedited, "level": level, "not_finite": lost, **environment()}
    return HeadTable.from_columns("ablate", stack, {"effect": column}, about, squeeze=True)


@dataclass(frozen=True)
class _Question:
    """All that is asked of the engine, for all examples or for some of them."""

    model: Model
    part: Stack
    batch: Batch
    reads: Reads
    objective: Objective
    stand_ins: StandIns
    chunks: Chunks

    def sweep(self, journal: Journal, advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
        """The unedited objective `[E]` and the effects `[E,L,N]`."""
        unedited_E = np.empty(len(self.batch))
        edited_ELN = np.empty((len(self.batch), self.part.layers, self.part.heads))
        for examples in self.chunks.example_pieces(len(self.batch)):
            piece = _Piece(self, examples)
            name = f"{self.chunks.examples}-from-{examples[0]}"
            unedited_E[examples] = journal.piece(f"{name}-unedited", piece.unedited)
            for layer in range(self.part.layers):
                edited_ELN[examples, layer] = journal.piece(f"{name}-layer-{layer}", partial(piece.edited, layer))
                advance(len(np.unique(examples)))
        return unedited_E, edited_ELN - unedited_E[:, None, None]


@dataclass(frozen=True)
class _Piece:
    """Some of the examples, with what their ablations share, computed when it is first asked for."""

    question: _Question
    examples: np.ndarray

    @cached_property
    def batch(self) -> Batch:
        return self.question.batch.take(self.examples)

    @cached_property
    def reads(self) -> Reads:
        return self.question.reads.take(self.examples)

    @cached_property
    def static(self) -> dict[str, Any]:
        return {"stack": self.question.part.name, "value": self.question.objective.value}

    @cached_property
    def clean(self) -> Clean:
        return run_clean(self.question.model.network, self.batch, self.reads, **self.static)

    @cached_property
    def banks(self) -> list[Bank]:
        return list(self.question.stand_ins.banks(self.batch, self.examples))

    def unedited(self) -> np.ndarray:
        """The objective `[B]` of the unedited run."""
        return np.asarray(self.clean.value, np.float64)

    def edited(self, layer: int) -> np.ndarray:
        """The objective `[B,N]` with each head of a layer replaced in turn, averaged over the stand-ins."""
        network, N = self.question.model.network, self.question.part.heads
        values_BN = np.zeros((len(self.batch), N))
        for bank in self.banks:
            for heads in self.question.chunks.head_pieces(N):
                values_GB = replace_each_head(
                    network, self.batch, self.reads, self.clean, bank, layer, jnp.asarray(heads), **self.static
                )
                kept = np.unique(heads, return_index=True)[1]
                values_BN[:, heads[kept]] += np.asarray(values_GB, np.float64).T[:, kept]
        return values_BN / len(self.banks)
