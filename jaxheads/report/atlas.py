"""The atlas: every head of a model measured, ablated and named, in one run that can be stopped and resumed.

What leads is reported on examples that did not choose it: heads of a role on the half of the examples that confirmed
the role, heads with large effects on fresh examples (see `jaxheads.report.ablations`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import jax
import numpy as np
import pandas as pd

from ..evidence.roles import Evidence, name_heads
from ..evidence.selection import held_out
from ..execution.resources import Options
from ..files import write_atomically
from ..models.inputs.sentences import Sentences
from ..models.model import Model
from ..provenance import provenance
from ..tables import Column, HeadTable
from .ablations import Ablation, ablations, ask_again, screen
from .page import body, heatmaps, page
from .role_evidence import YIELDING, pattern_evidence, role_table, sentence_evidence, token_evidence
from .sources import Inputs, inputs_of

MIXED = 0.8
"""A head whose second role is at least this share as strong as its first is called mixed."""


@dataclass(frozen=True)
class Atlas:
    """Everything measured about every head.

    Attributes:
        table: one row a head: metrics, effects of mean ablation in the screen and, for the heads asked again, in the
            second stage (`…_again`), role and the numbers that earned it.
        effects: a table for each ablation, its screen of every head, with per-example effects.
        again: a table for each ablation, of the heads that lead the screen and of others, on fresh examples.
        leading: by role, the heads that earned it, the strongest on the choosing half first; see `jh.held_out`.
        ablations: the ablations' inputs and objectives, in the order of `effects`.
        left_out: the ablations that don't fit this model, with reasons.
    """

    table: HeadTable
    effects: tuple[HeadTable, ...]
    again: tuple[HeadTable, ...]
    leading: dict[str, pd.DataFrame]
    ablations: tuple[Ablation, ...]
    left_out: tuple[str, ...]

    def text(self) -> str:
        """Write the leading heads of each role and each ablation, and what was left out, as Markdown."""
        return body(self.table, self.leading, self.ablations, self.effects, self.again, self.left_out)

    def save(self, directory: str | os.PathLike) -> list[Path]:
        """Save tables, heatmaps, `summary.md` and their provenance; return the files' paths."""
        written = [path for table in (self.table, *self.effects, *self.again) for path in table.save(directory)]
        summary = write_atomically(Path(directory) / "summary.md", page(self.table, self.text()).encode())
        return [*written, *heatmaps(self.table, directory), summary]


def atlas(
    model: Model,
    *,
    stack: str | None = None,
    text: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    audio: str | os.PathLike | None = None,
    sentences: Sentences | None = None,
    examples: int = 8,
    measured: int = 32,
    seed: int = 0,
    devices: jax.sharding.Mesh | None = None,
    progress: bool | None = None,
    resume: str | os.PathLike | None = None,
) -> Atlas:
    """Measure, ablate and name every head of a model, or of one stack of an encoder–decoder.

    Args:
        stack: the stack, in a model that has several.
        text: a UTF-8 file of prose, passages separated by blank lines; by default the package's 64 passages. An
            encoder–decoder also gets each text as the decoder's input.
        images: a folder of images, for a model that reads them; by default crops of one photograph.
        audio: a folder of recordings NAME.wav (16 kHz, mono, 16 bits), each with its words in NAME.txt; by default one
            person's reading, which is fetched once.
        sentences: with links "deprel" or labels "entity" (`jh.data.conllu`): heads may then earn the names of syntactic
            relations, and of entities.
        examples: of each ablation's screen; the second stage has 2 to 4 times as many. The run time grows with them.
        measured: number of sequences of repeated random tokens, of prompts for roles, or of crops, to measure.
        seed: of random tokens, prompts, nulls, splits and samples.
        devices: a mesh to spread measures and ablations over; see `jaxheads.ablate`.
        progress: show progress bars.
        resume: a directory for finished work; a later run with the same arguments resumes from it.

    Raises:
        ValueError: for a model without a tokenizer, a text with too few tokens, too few examples to test on, inputs
            that the model does not read, or no stack where there are several.
        FileNotFoundError: for a missing text or folder.
    """
    chosen = model.stack(stack)
    if examples < 2 or measured < 8:
        raise ValueError(f"needs at least 2 examples and 8 measured sequences, got {examples} and {measured}")
    inputs = inputs_of(model, chosen, text=text, images=images, audio=audio, measured=measured, seed=seed)
    fitting, left_out = ablations(model, inputs.batches, examples=examples, seed=seed)
    left_out = [*inputs.left_out, *left_out]
    options = Options(stack=chosen.name, seed=seed, devices=devices, progress=progress, resume=resume)
    on_inputs, evidence, unnamed = _roles(model, inputs, sentences, measured, **options)
    roles = name_heads(evidence, seed=seed, yielding=YIELDING, mixed=MIXED)
    left_out += unnamed
    effects = tuple(screen(model, ablation, **options) for ablation in fitting)
    again = tuple(ask_again(model, *pair, **options) for pair in zip(fitting, effects, strict=True))
    about = provenance(
        model,
        seed=seed,
        text=inputs.source,
        inputs=inputs.description,
        stacks=len(model.stacks),
        ablations={ablation.name: f"{ablation.objective}: {ablation.screen.description}" for ablation in fitting},
        again={ablation.name: ablation.again.description for ablation in fitting},
        left_out=left_out,
        roles=roles.provenance,
        units={name: unit for table in on_inputs for name, unit in table.provenance.get("units", {}).items()}
        | {name: table.provenance["units"]["effect"] for name, table in zip(_names(fitting), effects, strict=True)},
    )
    table = _joined(on_inputs, roles, effects, again, about)
    leading = _leading(evidence, table, seed)
    return Atlas(table, effects, again, leading, tuple(fitting), tuple(left_out))


def _names(fitting: Sequence[Ablation]) -> list[str]:
    return [ablation.name for ablation in fitting]


def _roles(
    model: Model, inputs: Inputs, sentences: Sentences | None, measured: int, **options: Unpack[Options]
) -> tuple[list[HeadTable], list[Evidence], list[str]]:
    """Return the metrics on natural inputs and on repeats, the evidence of all roles, and what is left out."""
    patterns = pattern_evidence(model, inputs, **options)
    evidence, left_out = list(patterns.evidence), list(patterns.left_out)
    if inputs.repeats is not None:
        tokens = token_evidence(model, inputs.batches, examples=measured, **options)
        evidence, left_out = [*evidence, *tokens.evidence], [*left_out, *tokens.left_out]
        patterns.tables.extend(role_table(entry) for entry in tokens.evidence)
    if sentences is not None:
        words = sentence_evidence(model, sentences, **options)
        evidence, left_out = [*evidence, *words.evidence], [*left_out, *words.left_out]
        patterns.tables.extend(role_table(entry) for entry in words.evidence)
    return patterns.tables, evidence, left_out


def _leading(evidence: Sequence[Evidence], table: HeadTable, seed: int) -> dict[str, pd.DataFrame]:
    """Return by role the heads that earned it, with their scores on the half of the examples that confirmed it."""
    leading = {}
    for entry in evidence:
        # The seed of `name_heads` gives the same halves.
        frame = held_out(role_table(entry), entry.role, len(table.frame), seed=seed)
        bounds = [f"{entry.role}_low", f"{entry.role}_high"]
        # Scores are shares; of a ratio, whose rows may be above 1, the interval could be, too.
        frame[bounds] = frame[bounds].clip(0, 1)
        earned = [entry.role in table.frame.loc[head, "roles"].split(", ") for head in frame.index]
        if any(earned):
            leading[entry.role] = frame.loc[earned].assign(roles=table.frame["roles"])
    return leading


def _joined(
    measured: Sequence[HeadTable],
    roles: HeadTable,
    effects: Sequence[HeadTable],
    again: Sequence[HeadTable],
    about: dict,
) -> HeadTable:
    columns = {name: _column(table, name) for table in measured for name in table.metrics}
    columns |= {name: _column(table, "effect") for table, name in zip(effects, about["ablations"], strict=True)}
    columns |= {f"{name}_again": _column(table, "effect") for table, name in zip(again, about["again"], strict=True)}
    extras = {
        name: roles.grid(name) for name in ("role", "roles", "jobs", "score", "null", "chance_corrected", "q_value")
    }
    # Not `score_low` and `score_high`, which would make the score of other roles in other rows one metric.
    extras |= {
        "score_from": roles.grid("score_low"),
        "score_to": roles.grid("score_high"),
        "score_n": roles.grid("score_n"),
    }
    if "positional_offset" in measured[0].frame:
        extras["positional_offset"] = measured[0].grid("positional_offset")
    return HeadTable.from_columns("atlas", measured[0].stack, columns, about, extras=extras)


def _column(table: HeadTable, metric: str) -> Column:
    mean, low, high = (np.asarray(table.grid(f"{metric}{end}"), float) for end in ("", "_low", "_high"))
    return Column(mean, low, high, table.grid(f"{metric}_n"))
