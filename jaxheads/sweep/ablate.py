"""Ablation: what happens to the objective when a head's output is taken away."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import jax.numpy as jnp
import numpy as np

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
from .stand_ins import Donors, StandIns, choose_donors, means, zeros

METHODS = ("zero", "mean", "resample")


def ablate(
    model: Model,
    batch: Batch,
    objective: Objective,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    reference: Batch | None = None,
    per_position: bool = False,
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
        ValueError: for an unknown method or stack, an objective that the model can't give, or a reference that does
            not fit the batch.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    model.check(batch)
    if reference is not None:
        model.check(reference)
    part = model.stack(stack)
    reads = objective.reads(model, batch)
    chunks = choose_chunks(part, batch, reads, vocabulary=model.config.vocab_size, memory=memory)
    stand_ins = _stand_ins(model, part, batch, method, reference, per_position, donors, seed, chunks)
    settings = (method, per_position, donors, seed, part.name, objective.name, chunks.examples, chunks.heads)
    question = "" if resume is None else fingerprint(model, batch, reads, reference, settings)
    journal = Journal(resume, f"ablate-{question}")
    with show_progress(len(batch) * part.layers, f"ablating {part.layers * part.heads} heads", progress) as advance:
        unedited_E, effects_ELN = _sweep(model, part, batch, reads, objective, stand_ins, chunks, journal, advance)

    finite = np.isfinite(effects_ELN)
    lost = [dict(zip(("example", "layer", "head"), map(int, where), strict=True)) for where in np.argwhere(~finite)]
    effects_ELN = np.where(finite, effects_ELN, np.nan)
    column = Column(*bootstrap_mean(effects_ELN, level=level, seed=seed), effects_ELN)
    about = {
        "model": model.name,
        "weights": model.identity(),
        "objective": objective.name,
        "unedited": float(unedited_E.mean()),
        "examples": len(batch),
        "method": method,
        "per_position": per_position,
        "reference": "the batch" if reference is None else f"{len(reference)} examples",
        "seed": seed,
        "level": level,
        "not_finite": lost,
    }
    return HeadTable.from_columns("ablate", part.name, {"effect": column}, {**about, **environment()}, squeeze=True)


def _stand_ins(
    model: Model,
    part: Stack,
    batch: Batch,
    method: str,
    reference: Batch | None,
    per_position: bool,
    donors: int,
    seed: int,
    chunks: Chunks,
) -> StandIns:
    if method == "zero":
        return zeros(part)
    given = batch if reference is None else reference
    if method == "mean":
        pieces = list(chunks.example_pieces(len(given)))
        return means(model, part, given, needed=batch, per_position=per_position, pieces=pieces)
    if donors < 1:
        raise ValueError(f"resampling needs at least one donor, got {donors}")
    return Donors(model, part.name, given, choose_donors(batch, reference, donors=donors, seed=seed))


def _sweep(
    model: Model,
    part: Stack,
    batch: Batch,
    reads: Reads,
    objective: Objective,
    stand_ins: StandIns,
    chunks: Chunks,
    journal: Journal,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """The unedited objective `[E]` and the effects `[E,L,N]`."""
    unedited_E = np.empty(len(batch))
    edited_ELN = np.empty((len(batch), part.layers, part.heads))
    for examples in chunks.example_pieces(len(batch)):
        work = _Piece(model, part, batch.take(examples), reads.take(examples), objective, stand_ins, examples)
        name = f"examples-{examples[0]}"
        unedited_E[examples] = journal.piece(f"{name}-unedited", lambda work=work: np.asarray(work.clean.value))
        for layer in range(part.layers):
            compute = partial(work.layer, layer, list(chunks.head_pieces(part.heads)))
            edited_ELN[examples, layer] = journal.piece(f"{name}-layer-{layer}", compute)
            advance(len(np.unique(examples)))
    return unedited_E, edited_ELN - unedited_E[:, None, None]


@dataclass(frozen=True)
class _Piece:
    """Some examples of the batch, with what their ablations share, computed when first asked for."""

    model: Model
    part: Stack
    batch: Batch
    reads: Reads
    objective: Objective
    stand_ins: StandIns
    examples: np.ndarray

    @cached_property
    def clean(self) -> Clean:
        return run_clean(
            self.model.network, self.batch, self.reads, stack=self.part.name, value=self.objective.value
        )

    @cached_property
    def banks(self) -> list[Bank]:
        return list(self.stand_ins.banks(self.batch, self.examples))

    def layer(self, layer: int, head_pieces: list[np.ndarray]) -> np.ndarray:
        """The edited objective `[B,N]` of every head of a layer, averaged over the stand-ins."""
        values_BN = np.zeros((len(self.batch), self.part.heads))
        for bank in self.banks:
            for heads in head_pieces:
                values_GB = replace_each_head(
                    self.model.network,
                    self.batch,
                    self.reads,
                    self.clean,
                    bank,
                    jnp.asarray(layer),
                    jnp.asarray(heads),
                    stack=self.part.name,
                    value=self.objective.value,
                )
                kept = np.unique(heads, return_index=True)[1]
                values_BN[:, heads[kept]] += np.asarray(values_GB, float).T[:, kept]
        return values_BN / len(self.banks)
