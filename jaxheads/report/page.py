"""Pages of the atlas: the leading heads of each role and ablation, and pictures of all heads."""

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..models.loading.zoo import ZOO
from ..plots import panels
from ..provenance import made_by
from ..tables import HeadTable, marked_count
from ..tables.counts import FOOTNOTE
from .ablations import Ablation

LEADING = 6
"""Number of heads shown for each role and each ablation."""


def body(
    table: HeadTable,
    leading: Mapping[str, pd.DataFrame],
    ablations: Sequence[Ablation],
    effects: Sequence[HeadTable],
    again: Sequence[HeadTable],
    left_out: Sequence[str],
) -> str:
    """Write the leading heads of each role and ablation, and what was left out, as Markdown fit for a terminal."""
    lines = [*_role_lines(table, leading), *_effect_lines(table, ablations, effects, again)]
    if left_out:
        lines += ["## Left out", "", *(f"- {reason}" for reason in left_out), ""]
    if any("†" in line for line in lines):
        lines += [FOOTNOTE]
    return "\n".join(lines).rstrip() + "\n"


def model_title(name: str) -> str:
    """Return what a model is, for headings: the zoo's words for its entries, else the name as it is."""
    return ZOO[name].what.split(":")[0] if name in ZOO else name


def page(table: HeadTable, rest: str) -> str:
    """Write a whole page: a heading, the inputs, then the rest."""
    about = table.provenance
    where = f" of the {table.stack}" if about["stacks"] > 1 else ""
    program, *words = about["command"]
    # Python's own programs have no command that would make the page again.
    made = f"\n{made_by(shlex.join(['jaxheads', *words]))}\n" if program in ("jaxheads", "__main__.py") else ""
    return f"""# The heads of {model_title(about["model"])}

{len(table.frame)} heads{where}; measured on {about["inputs"]}. Weights {about["weights"]}; seed {about["seed"]}.

{rest}{made}"""


def heatmaps(table: HeadTable, directory: str | os.PathLike) -> list[Path]:
    """Draw the metrics of patterns in one picture and the effects of ablations, if any, in another."""
    effects = list(table.provenance["ablations"])
    patterns = [name for name in table.metrics if name.removesuffix("_again") not in effects]
    pictures = {"patterns.png": patterns} | ({"effects.png": effects} if effects else {})
    return [_picture(table, names, Path(directory) / file) for file, names in pictures.items()]


def _role_lines(table: HeadTable, leading: Mapping[str, pd.DataFrame]) -> list[str]:
    about = table.provenance["roles"]
    lines = [
        "## Roles",
        "",
        f"A role needs a score that beats the best head of its null on examples kept apart (false discovery rate "
        f"{about['level']:g} over {about['tried']['tests']} tests, for new draws of the null) and reaches "
        f"{about['least']:g} of what the null leaves open. {(table.frame['role'] != '').sum()} of {len(table.frame)} "
        "heads have one. Heads are in the order of the half of the examples that chose them; scores, intervals and n "
        "are those of the other half.",
        "",
    ]
    for role, heads in leading.items():
        null, power = about["nulls"][role], about["power"][role]
        best = f"{null['draws']} draws, best heads {null['score']:.3f} ± {null['spread'] or 0:.3f}"
        lines += [
            f"**{role.replace('_', ' ')}**: {len(heads)} heads (null: {null['kind']}, {best}; {_power_words(power)})",
            "",
            _markdown(heads.head(LEADING), role, {"roles": heads["roles"]}),
            "",
        ]
    return lines


def _power_words(power: Mapping[str, float | None]) -> str:
    known = ", ".join(f"{score}: {value:.2f}" for score, value in power.items() if value is not None)
    return f"power at a chance-corrected score of {known}" if known else "power unknown"


def _effect_lines(
    table: HeadTable, ablations: Sequence[Ablation], effects: Sequence[HeadTable], again: Sequence[HeadTable]
) -> list[str]:
    if not ablations:
        return []
    lines = [
        "## What mean ablation changes",
        "",
        "A screen of all heads chose those with the largest effects; every other number is of fresh examples. q is "
        "two-sided, over the heads that were chosen. Heads are in the order of the screen.",
        "",
    ]
    for ablation, screened, asked in zip(ablations, effects, again, strict=True):
        frame: Any = asked.frame.assign(roles=table.frame["roles"])
        leaders = frame[frame["asked"] == "leader"].sort_values("screened", key=np.abs, ascending=False)
        others = {
            "q": leaders["q"].map(_q_words),
            "screened": leaders["screened"].map("{:.3f}".format),
            "roles": leaders["roles"],
        }
        lines += [
            f"**{ablation.name.replace('_', ' ')}**: {ablation.objective}. Screened on {ablation.screen.description} "
            f"(unedited {screened.provenance['unedited']:.3f}), asked again on {ablation.again.description} (unedited "
            f"{asked.provenance['unedited']:.3f}); means: {asked.provenance.get('means')}",
            "",
            _markdown(leaders.head(LEADING), "effect", others),
            "",
            _shrinkage(frame),
            "",
        ]
    return lines


def _q_words(q: float) -> str:
    return "–" if np.isnan(q) else "< .001" if q < 0.001 else f"{q:.3f}"


def _shrinkage(frame: Any) -> str:
    """Return how the leaders' effects changed from the screen, and how large those of other heads are, in words."""
    leaders, sample = (frame[frame["asked"] == kind] for kind in ("leader", "sample"))
    inside = ((leaders["effect_low"] <= leaders["screened"]) & (leaders["screened"] <= leaders["effect_high"])).sum()
    words = (
        f"{len(leaders)} leaders: mean size {leaders['screened'].abs().mean():.3f} in the screen, "
        f"{(np.sign(leaders['screened']) * leaders['effect']).mean():.3f} in its direction on fresh examples; "
        f"{inside} screened effects lie in the fresh interval."
    )
    if len(sample):
        words += f" {len(sample)} other heads, drawn at random: mean size {sample['effect'].abs().mean():.3f}."
    return words


def _markdown(heads: pd.DataFrame, metric: str, others: Mapping[str, Any]) -> str:
    shown = pd.DataFrame(
        {
            "head": [f"{layer}.{head}" for _, layer, head in heads.index],
            metric: heads[metric].map("{:.3f}".format),
            "95 % interval": [
                "–" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
                for low, high in zip(heads[f"{metric}_low"], heads[f"{metric}_high"], strict=True)
            ],
            "n": heads[f"{metric}_n"].map(marked_count),
            **{
                name: column.loc[heads.index].where(column.loc[heads.index] != "", "–")
                for name, column in others.items()
            },
        }
    )
    return shown.to_markdown(index=False, disable_numparse=True)


def _picture(table: HeadTable, columns: list[str], path: Path) -> Path:
    across = min(5, len(columns))
    down = -(-len(columns) // across)
    layers, heads = table.shape
    size = across * (1.6 + 0.14 * heads), down * (1.2 + 0.1 * layers)
    picture, axes = panels(across * down, size, down)
    for column, ax in zip_longest(columns, axes):
        if column is None:
            ax.remove()  # the last row may have fewer
        else:
            table.plot(column, ax).set_title(column.replace("_", " "), fontsize=9)
    return picture.save(path)
