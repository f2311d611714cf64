"""Tables of an atlas, from a finished one or from its folder, as plain values for a page.

Dimension key: E examples, L layers, N heads.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...tables import HeadTable
from ..role_evidence import METRIC_OF
from .words_of_numbers import SKILLS, about_role, label_of, meaning_of

COLUMN_OF = {role: metric for role, metric in METRIC_OF.items() if role != "positional"}
"""The column with the score of a role of another name; the share at one offset, any one, is no score of positional."""

POSITIVE_IS_WORSE = {"loss": True}
"""Whether a positive effect of removing a head means that the model got worse, by objective; others: negative does."""


class MadeAtlas(Protocol):
    """What a portrait reads of an atlas in memory; see `jaxheads.report.atlas.Atlas`."""

    @property
    def table(self) -> HeadTable: ...
    @property
    def effects(self) -> Sequence[HeadTable]: ...
    @property
    def again(self) -> Sequence[HeadTable]: ...


@dataclass(frozen=True, eq=False)
class AtlasTables:
    """Tables of one stack's atlas.

    Attributes:
        table: one row a head: metrics, effects, role.
        effects: the screen of every head, by ablation.
        again: the leading heads and others on fresh examples, by ablation.
    """

    table: HeadTable
    effects: Mapping[str, HeadTable]
    again: Mapping[str, HeadTable]

    @classmethod
    def of(cls, made: MadeAtlas) -> "AtlasTables":
        """Return the tables of an atlas in memory."""
        names = list(made.table.provenance["ablations"])
        screens, again = (dict(zip(names, tables, strict=True)) for tables in (made.effects, made.again))
        return cls(made.table, screens, again)


def read_atlas(folder: str | os.PathLike[str]) -> AtlasTables:
    """Read the tables that `jaxheads atlas` saved in a folder.

    Raises:
        FileNotFoundError: for a folder without an atlas, or with a part of one.
        ValueError: for a table that is damaged.
    """
    path = Path(folder)
    if not (path / "atlas.parquet").exists():
        raise FileNotFoundError(f"{path} holds no atlas: make one by `jaxheads atlas MODEL --out {path}`")
    table = HeadTable.load(path / "atlas")
    names = {name: name.replace("_", "-") for name in table.provenance["ablations"]}
    effects, again = (
        {name: HeadTable.load(path / f"{kind}-{file}") for name, file in names.items()} for kind in ("ablate", "again")
    )
    return AtlasTables(table, effects, again)


def columns_of(table: HeadTable) -> list[dict[str, Any]]:
    """Return every metric of the atlas: its name, what it means in plain words, and arrays `[L,N]`."""
    effects, units = table.provenance["ablations"], table.provenance.get("units", {})
    columns = []
    for name in table.metrics:
        of_effect = name.removesuffix("_again") in effects
        columns.append(
            {
                "name": name,
                "label": label_of(name),
                "about": meaning_of(name, effects),
                "group": "effect" if of_effect else "attention",
                "unit": units.get(name.removesuffix("_again"), "") or "",
                "values": _grid(table, name),
                "low": _grid(table, f"{name}_low"),
                "high": _grid(table, f"{name}_high"),
                "n": _grid(table, f"{name}_n") if f"{name}_n" in table.frame else None,
            }
        )
    return columns


def roles_of(table: HeadTable) -> dict[str, Any]:
    """Return the roles that were tried, with their nulls, and those that each head earned, in the order of the grid."""
    about = table.provenance["roles"]
    earned = [str(words).split(", ") if words else [] for words in table.grid("roles").reshape(-1)]
    tried = [
        {
            "name": role,
            "label": label_of(role),
            "about": about_role(role),
            "heads": sum(role in roles for roles in earned),
            "metric": next((name for name in (role, COLUMN_OF.get(role)) if name in table.metrics), None),
            **{key: null[key] for key in ("kind", "draws", "score", "spread")},
        }
        for role, null in about["nulls"].items()
    ]
    tested = {
        name: table.grid(name).astype(float)
        for name in ("score", "score_from", "score_to", "score_n", "null", "chance_corrected", "q_value")
        if name in table.frame
    }
    return {
        "tried": tried,
        "earned": earned,
        # a mixed head is shown by its strongest role, with the others beside it
        "own": [
            own[0] if role == "mixed" and own else str(role)
            for role, own in zip(table.grid("role").reshape(-1), earned, strict=True)
        ],
        "tested": tested,
        "level": about["level"],
        "least": about["least"],
        "tests": about["tried"]["tests"],
    }


def effects_of(tables: AtlasTables) -> list[dict[str, Any]]:
    """Return what removing each head changes: by ablation the screen and the second stage, with every example."""
    about = tables.table.provenance
    described = []
    for name, screen in tables.effects.items():
        objective, _, inputs = about["ablations"][name].partition(": ")
        stages = [_stage(screen, inputs)]
        if name in tables.again:
            stages.append(_stage(tables.again[name], about["again"][name]))
        described.append(
            {
                "name": name,
                "label": label_of(name),
                "objective": objective,
                "skill": SKILLS.get(name, f"the {objective}"),
                "worse": 1 if POSITIVE_IS_WORSE.get(screen.provenance["objective"], False) else -1,
                "method": screen.provenance["method"],
                "stages": stages,
            }
        )
    return described


def _stage(table: HeadTable, inputs: str) -> dict[str, Any]:
    stage: dict[str, Any] = {"inputs": inputs, "baseline": table.provenance["unedited"]}
    stage |= {key: _grid(table, f"effect{end}") for key, end in _ENDS.items()}
    stage["examples"] = None if table.per_example is None else np.asarray(table.per_example, np.float32)
    if "asked" in table.frame:
        stage["asked"] = [str(word) for word in table.grid("asked").reshape(-1)]
        stage["q"] = _grid(table, "q")
    return stage


_ENDS = {"values": "", "low": "_low", "high": "_high", "n": "_n"}


def _grid(table: HeadTable, column: str) -> np.ndarray:
    return table.grid(column).astype(np.float64)
