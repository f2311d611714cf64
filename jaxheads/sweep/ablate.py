"""Ablation: what happens to the objective when a head's output is taken away."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

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
from .replacement import Replacement
from .runs import Journal, fingerprint
from .stand_ins import StandIns


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
    replacement = Replacement.of(method, reference, per_position, groups, reference_groups, donors, seed)
    replacement.check(model, batch)
    part = model.stack(stack)
    question = _Question.asked(model, part, batch, objective, replacement, memory)
    with show_progress(len(batch) * part.layers, f"ablating {part.layers * part.heads} heads", progress) as advance:
        unedited_E, effects_ELN = question.sweep(question.journal(resume, replacement), advance)
    about = {"model": model.name, "weights": model.identity(), "objective": objective.name, **replacement.about()}
    return _table(part.name, unedited_E, effects_ELN, about, level=level, seed=seed)


def _table(
    stack: str, unedited_E: np.ndarray, effects_ELN: np.ndarray, about: dict[str, Any], *, level: float, seed: int
) -> HeadTable:
    finite = np.isfinite(effects_ELN)
    lost = [dict(zip(("example", "layer", "head"), map(int, where), strict=True)) for where in np.argwhere(~finite)]
    effects_ELN = np.where(finite, effects_ELN, np.nan)
    column = Column(*bootstrap_mean(effects_ELN, level=level, seed=seed), effects_ELN)
    known_E = unedited_E[np.isfinite(unedited_E)]
    unedited = float(known_E.mean()) if known_E.size else None
    about = {
        **about,
        "examples": len(unedited_E),
        "unedited": unedited,
        "level": level,
        "not_finite": lost,
        **environment(),
    }
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

    @classmethod
    def asked(
        cls, model: Model, part: Stack, batch: Batch, objective: Objective, replacement: Replacement, memory: int
    ) -> "_Question":
        """With what the objective reads, how the work is cut, and what replaces the heads."""
        reads = objective.reads(model, batch)
        chunks = choose_chunks(part, batch, reads, vocabulary=model.config.vocab_size, memory=memory)
        stand_ins = replacement.stand_ins(model, part, batch, chunks)
        return cls(model, part, batch, reads, objective, stand_ins, chunks)

    def journal(self, resume: str | os.PathLike | None, replacement: Replacement) -> Journal:
        """Where finished pieces of this very question are kept."""
        if resume is None:
            return Journal(None, "")
        words = (self.objective.name, self.part.name, replacement.about())
        return Journal(resume, f"ablate-{fingerprint(self.model, self.batch, self.reads, replacement.data(), words)}")

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
