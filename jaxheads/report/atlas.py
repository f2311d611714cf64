"""The atlas: every head of a model measured, ablated and named, in one run that can be stopped and resumed."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from ..evidence.roles import Evidence, name_heads
from ..execution.journal import fingerprint
from ..files import write_atomically
from ..measure.patterns.scoring import measure
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.random_weights import random_weights
from ..provenance import environment
from ..sweep.exact.ablate import ablate
from ..tables import Column, HeadTable
from .inputs import Question, Repeats, prose, questions, repeats
from .page import body, heatmaps, page

ON_PROSE = (
    "entropy",
    "confidence",
    "distance",
    "previous_token",
    "next_token",
    "self_token",
    "first_token",
    "positional_share",
)
"""What is measured on prose; next_token only where a model can see it."""

ON_REPEATS = ("duplicate_token", "induction")
POSITIONAL_ROLES = ("previous_token", "next_token", "self_token", "first_token")


@dataclass(frozen=True)
class Atlas:
    """What is known of every head.

    Attributes:
        table: one row a head: metrics, effects of mean ablation, role and the numbers that earned it.
        effects: each ablation with its per-example effects.
        left_out: what this model can't be asked, and why.
    """

    table: HeadTable
    effects: tuple[HeadTable, ...]
    asked: tuple[Question, ...]
    left_out: tuple[str, ...]

    def text(self) -> str:
        """The leading heads of each role and of each ablation, and what was left out, as Markdown."""
        return body(self.table, self.asked, self.effects, self.left_out)

    def save(self, directory: str | os.PathLike) -> list[Path]:
        """Write tables, heatmaps, `summary.md` and their provenance; returns the files."""
        written = [path for table in (self.table, *self.effects) for path in table.save(directory)]
        summary = write_atomically(Path(directory) / "summary.md", page(self.table, self.text()).encode())
        return [*written, *heatmaps(self.table, directory), summary]


def atlas(
    model: Model,
    *,
    text: str | os.PathLike | None = None,
    examples: int = 8,
    measured: int = 32,
    seed: int = 0,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> Atlas:
    """Measure, ablate and name every head of a model.

    Args:
        text: a UTF-8 file of prose, passages apart by blank lines; the package's 64 passages when left out.
        examples: of each ablation. One token costs about two forward passes' arithmetic for every head.
        measured: sequences of repeated random tokens that are measured.
        seed: of random tokens, prompts, nulls, splits and bootstraps.
        devices: a mesh to spread the ablations over; see `jaxheads.ablate`.
        progress: show progress bars.
        resume: a directory that keeps finished work until the atlas is done; a second run goes on from there.

    Raises:
        ValueError: for a model without a tokenizer, a text with too few tokens, or too few examples to test on.
        FileNotFoundError: for a text that is not there.
    """
    if model.tokenizer is None:
        raise ValueError(f"an atlas needs a tokenizer to read prose; {model.name} has none ({model.no_tokenizer})")
    if examples < 2 or measured < 8:
        raise ValueError(f"needs at least 2 examples and 8 measured sequences, got {examples} and {measured}")
    shown = prose(model, text)
    said = repeats(model, examples=measured, longest=24, seed=seed)
    asked, left_out = questions(model, shown, examples=examples, seed=seed)
    measuring = _Measuring(model, seed, progress, None if resume is None else Path(resume))
    on_prose, on_repeats, roles = measuring.all(shown, said)
    effects = tuple(_effect(model, question, seed, devices, progress, resume) for question in asked)
    about = {
        "model": model.name,
        "weights": model.identity(),
        "seed": seed,
        "text": "the package's prose" if text is None else Path(text).name,
        "prose": on_prose.provenance["examples"],
        "repeats": measured,
        "ablations": {question.name: question.what for question in asked},
        "left_out": left_out,
        "roles": roles.provenance,
        **environment(),
    }
    table = _together(on_prose, on_repeats, roles, effects, about)
    return Atlas(table, effects, tuple(asked), tuple(left_out))


@dataclass(frozen=True)
class _Measuring:
    """The tables of patterns and what they say of roles; each is kept on disk once it is finished."""

    model: Model
    seed: int
    progress: bool
    folder: Path | None

    def all(self, text: Sequence[Batch], said: Repeats) -> tuple[HeadTable, HeadTable, HeadTable]:
        """On prose, on repeats, and the roles."""
        seen, roles = self._visible(ON_PROSE), self._visible(POSITIONAL_ROLES)
        on_prose = self._kept("prose", text, lambda: self._measure(self.model, text, seen))
        by_chance = self._kept(
            "chance", text, lambda: self._measure(random_weights(self.model, self.seed), text, roles)
        )
        on_repeats = self._kept("repeats", said.batch, lambda: self._measure(self.model, [said.batch], ON_REPEATS))
        shuffled = self._kept(
            "shuffled",
            (said.null, said.batch),
            lambda: self._measure(self.model, [said.null], ON_REPEATS, scored_as=[said.batch]),
        )
        evidence = [Evidence.from_tables(on_prose, by_chance, "random weights", metric=role) for role in roles]
        evidence += [Evidence.from_tables(on_repeats, shuffled, "shuffled repeats", metric=role) for role in ON_REPEATS]
        return on_prose, on_repeats, name_heads(evidence, seed=self.seed, yielding=("first_token",))

    def _visible(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in metrics if not (name == "next_token" and self.model.causal))

    def _measure(
        self, model: Model, batches: Sequence[Batch], metrics: Sequence[str], scored_as: Sequence[Batch] | None = None
    ) -> HeadTable:
        return measure(model, batches, metrics, scored_as=scored_as, progress=self.progress, seed=self.seed)

    def _kept(self, name: str, data: object, compute: Callable[[], HeadTable]) -> HeadTable:
        if self.folder is None:
            return compute()
        place = self.folder / f"measure-{name}-{fingerprint(self.model, data, self.seed)}"
        if (place / "done").exists():
            return HeadTable.load(place / "measure")
        table = compute()
        table.save(place)
        (place / "done").touch()
        return table


def _effect(
    model: Model,
    question: Question,
    seed: int,
    devices: jax.sharding.Mesh | None,
    progress: bool,
    resume: str | os.PathLike | None,
) -> HeadTable:
    table = ablate(
        model,
        question.batch,
        question.objective,
        "mean",
        reference=question.reference,
        seed=seed,
        devices=devices,
        progress=progress,
        resume=resume,
    )
    return replace(table, name=f"ablate-{question.name.replace('_', '-')}")


def _together(
    on_prose: HeadTable, on_repeats: HeadTable, roles: HeadTable, effects: Sequence[HeadTable], about: dict
) -> HeadTable:
    columns = {name: _column(table, name) for table in (on_prose, on_repeats) for name in table.metrics}
    columns |= {name: _column(table, "effect") for table, name in zip(effects, about["ablations"], strict=True)}
    extras = {name: roles.grid(name) for name in ("role", "roles", "score", "null", "chance_corrected", "q_value")}
    extras["positional_offset"] = on_prose.grid("positional_offset")
    return HeadTable.from_columns("atlas", on_prose.stack, columns, about, extras=extras)


def _column(table: HeadTable, metric: str) -> Column:
    return Column(*(np.asarray(table.grid(part), float) for part in (metric, f"{metric}_low", f"{metric}_high")))
