"""Pages of the atlas: the leading heads of each role and ablation, and pictures of all heads."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import write_atomically
from ..tables import HeadTable
from .inputs import Ablation

LEADING = 6
"""Number of heads shown for each role and each ablation."""


def roles_earned(table: HeadTable, metrics: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Return the heads that earned each role, ranked by the role's metric; roles without heads are left out."""
    leading = {}
    for metric in metrics:
        earned = [metric in roles.split(", ") for roles in table.frame["roles"]]
        if any(earned):
            leading[metric] = table.frame.loc[earned].sort_values(by=[metric], ascending=False)
    return leading


def body(table: HeadTable, ablations: Sequence[Ablation], effects: Sequence[HeadTable], left_out: Sequence[str]) -> str:
    """Write the leading heads of each role and ablation, and what was left out, as Markdown fit for a terminal."""
    lines = [*_role_lines(table), *_effect_lines(table, ablations, effects)]
    if left_out:
        lines += ["## Left out", "", *(f"- {reason}" for reason in left_out)]
    return "\n".join(lines).rstrip() + "\n"


def page(table: HeadTable, rest: str) -> str:
    """Write a whole page: a heading, the inputs, then the rest."""
    about = table.provenance
    return f"""# The heads of {about["model"]}

{len(table.frame)} heads; measured on {about["prose"]} windows of prose ({about["text"]}) and {about["repeats"]}
sequences of random tokens said twice. Weights {about["weights"]}; seed {about["seed"]}.

{rest}"""


def heatmaps(table: HeadTable, directory: str | os.PathLike) -> list[Path]:
    """Draw the metrics of patterns in one picture and the effects of ablations, if any, in another."""
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


def _effect_lines(table: HeadTable, ablations: Sequence[Ablation], effects: Sequence[HeadTable]) -> list[str]:
    lines = ["## What mean ablation changes", ""] if ablations else []
    for ablation, effect in zip(ablations, effects, strict=True):
        title, baseline = ablation.name.replace("_", " "), effect.provenance["unedited"]
        lines += [
            f"**{title}**: {ablation.description}; unedited {baseline:.3f}",
            "",
            _markdown(table.top(ablation.name, LEADING, absolute=True), ablation.name),
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
    for number, column in enumerate(columns, start=1):
        axes = table.plot(column, figure.add_subplot(down, across, number))
        axes.set_title(column.replace("_", " "), fontsize=9)
    return write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=80))
