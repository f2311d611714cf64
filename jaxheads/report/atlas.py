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
from ..measure.patterns.metric import fits
from ..measure.patterns.registry import METRICS
from ..measure.patterns.scoring import measure
from ..models.model import Model
from ..models.random_weights import random_weights
from ..models.stack import Stack
from ..provenance import provenance
from ..tables import Column, HeadTable
from .ablations import Ablation, ablations, ask_again, screen
from .inputs import DRAWS
from .page import body, heatmaps, page
from .sources import Inputs, inputs_of

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
"""Metrics measured on prose; next_token only for models that attend to it."""

ON_REPEATS = ("duplicate_token", "induction")
POSITIONAL_ROLES = ("previous_token", "next_token", "self_token", "first_token")


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
        examples: of each ablation's screen; the second stage has 2 to 4 times as many. The run time grows with them.
        measured: number of sequences of repeated random tokens, or of crops, to measure.
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
    on_inputs, roles = _patterns(model, inputs, **options)
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
        units={name: unit for table in on_inputs for name, unit in table.provenance["units"].items()}
        | {name: table.provenance["units"]["effect"] for name, table in zip(_names(fitting), effects, strict=True)},
    )
    table = _joined(on_inputs, roles, effects, again, about)
    leading = _leading(on_inputs, table, seed)
    return Atlas(table, effects, again, leading, tuple(fitting), tuple(left_out))


def _names(fitting: Sequence[Ablation]) -> list[str]:
    return [ablation.name for ablation in fitting]


def _patterns(model: Model, inputs: Inputs, **options: Unpack[Options]) -> tuple[list[HeadTable], HeadTable]:
    """Return the metrics on natural inputs and, where there are any, on repeats; and the roles that both earn."""
    stack = model.stack(options.get("stack"))
    metrics, roles = visible(stack, ON_PROSE), visible(stack, POSITIONAL_ROLES)
    seed, batches = options.get("seed", 0), inputs.batches
    on_inputs = [measure(model, batches, metrics, **options)]
    by_chance = [measure(random_weights(model, seed + draw), batches, roles, **options) for draw in range(DRAWS)]
    evidence = [Evidence.from_tables(on_inputs[0], by_chance, "random weights", metric=role) for role in roles]
    if inputs.repeats is not None:
        batch, nulls = inputs.repeats.batch, inputs.repeats.nulls
        on_inputs.append(measure(model, [batch], ON_REPEATS, **options))
        # The model reads the null, but heads are scored at the positions of the repeats, which the null doesn't have.
        shuffled = [measure(model, [null], ON_REPEATS, scored_as=[batch], **options) for null in nulls]
        evidence += [
            Evidence.from_tables(on_inputs[1], shuffled, "shuffled repeats", metric=role) for role in ON_REPEATS
        ]
    return on_inputs, name_heads(evidence, seed=seed, yielding=("first_token",))


def visible(stack: Stack, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that a stack's positions and its mask allow: a causal stack attends to no next token."""
    fitting = [name for name in metrics if fits(METRICS[name], stack)]
    return tuple(name for name in fitting if not (name == "next_token" and stack.causal))


def _leading(measured: Sequence[HeadTable], table: HeadTable, seed: int) -> dict[str, pd.DataFrame]:
    """Return by role the heads that earned it, with their scores on the half of the examples that confirmed it."""
    leading = {}
    for role in table.provenance["roles"]["nulls"]:
        [scores] = [entry for entry in measured if role in entry.metrics]
        # The seed of `name_heads` gives the same halves.
        frame = held_out(scores, role, len(scores.frame), seed=seed)
        earned = [role in table.frame.loc[head, "roles"].split(", ") for head in frame.index]
        if any(earned):
            leading[role] = frame.loc[earned].assign(roles=table.frame["roles"])
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
    extras = {name: roles.grid(name) for name in ("role", "roles", "score", "null", "chance_corrected", "q_value")}
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
