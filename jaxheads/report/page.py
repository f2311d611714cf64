"""The atlas for people: the leading heads of each role, the heads that matter, and pictures of all."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import write_atomically
from ..tables import HeadTable
from .inputs import Question

LEADING = 6
"""Heads shown of each role and of each ablation."""


def roles_earned(table: HeadTable, metrics: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """For each role that some head earned, its leading heads by the role's own metric."""
    found = {}
    for metric in metrics:
        has_it = [metric in roles.split(", ") for roles in table.frame["roles"]]
        if any(has_it):
            found[metric] = table.frame.loc[has_it].sort_values(by=[metric], ascending=False)
    return found


def body(table: HeadTable, asked: Sequence[Question], effects: Sequence[HeadTable], left_out: Sequence[str]) -> str:
    """Who leads each role, who matters, what was left out; Markdown that a terminal can show as well."""
    lines = [*_role_lines(table), *_effect_lines(table, asked, effects)]
    if left_out:
        lines += ["## Left out", "", *(f"- {reason}" for reason in left_out)]
    return "\n".join(lines).rstrip() + "\n"


def page(table: HeadTable, rest: str) -> str:
    """A whole page: what was measured, then the rest."""
    about = table.provenance
    return f"""# The heads of {about["model"]}

{len(table.frame)} heads; measured on {about["prose"]} windows of prose ({about["text"]}) and {about["repeats"]}
sequences of random tokens said twice. Weights {about["weights"]}; seed {about["seed"]}.

{rest}"""


def heatmaps(table: HeadTable, directory: str | os.PathLike) -> list[Path]:
    """Write one picture of the patterns' metrics and, where heads were ablated, one of the effects."""
    effects = list(table.provenance["ablations"])
    patterns = [metric for metric in table.metrics if metric not in effects]
    pictures = {"patterns.png": patterns} | ({"effects.png": effects} if effects else {})
    return [_picture(table, names, Path(directory) / file) for file, names in pictures.items()]


def _role_lines(table: HeadTable) -> list[str]:
    about = table.provenance["roles"]
    earned = roles_earned(table, tuple(about["nulls"]))
    lines = [
        "## Roles",
        "",
        f"A role needs a score that beats the best head of its null on examples kept apart (false discovery rate "
        f"{about['level']:g} over {about['tried']['tests']} tests) and reaches {about['least']:g} of what the null "
        f"leaves open. {(table.frame['role'] != '').sum()} of {len(table.frame)} heads have one.",
        "",
    ]
    for role, heads in earned.items():
        null = about["nulls"][role]
        lines += [
            f"**{role.replace('_', ' ')}**: {len(heads)} heads (null: {null['kind']}, best head {null['score']:.3f})",
            "",
            _markdown(heads.head(LEADING), role),
            "",
        ]
    return lines


def _effect_lines(table: HeadTable, asked: Sequence[Question], effects: Sequence[HeadTable]) -> list[str]:
    lines = ["## What mean ablation changes", ""] if asked else []
    for question, effect in zip(asked, effects, strict=True):
        lines += [
            f"**{question.name.replace('_', ' ')}**: {question.what}; unedited {effect.provenance['unedited']:.3f}",
            "",
            _markdown(table.top(question.name, LEADING, absolute=True), question.name),
            "",
        ]
    return lines


def _markdown(heads: pd.DataFrame, metric: str) -> str:
    shown = pd.DataFrame(
        {
            "head": [f"{layer}.{head}" for _, layer, head in heads.index],
            metric: heads[metric].map("{:.3f}".format),
            "95 % interval": [
                "–" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
                for low, high in zip(heads[f"{metric}_low"], heads[f"{metric}_high"], strict=True)
            ],
            "roles": heads["roles"].where(heads["roles"] != "", "–"),
        }
    )
    return shown.to_markdown(index=False, disable_numparse=True)


def _picture(table: HeadTable, columns: list[str], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(5, len(columns))
    down = -(-len(columns) // across)
    layers, heads = table.shape
    figure = Figure(figsize=(across * (1.6 + 0.14 * heads), down * (1.2 + 0.1 * layers)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, column in enumerate(columns):
        axes = table.plot(column, figure.add_subplot(down, across, place + 1))
        axes.set_title(column.replace("_", " "), fontsize=9)
    return write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=80))
