"""Heads chosen for relations on one half of the documents, with their values on the other; nulls beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences

ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Asked:
    """What relations of a corpus are asked for, and where finished parts are kept.

    Attributes:
        labels: as `jh.relations` takes them.
        least: relations with fewer words in half of the documents are left out.
        seed: of the halves.
    """

    labels: str
    least: int
    seed: int
    resume: Path


def chosen(model: jh.Model, sentences: Sentences, asked: Asked) -> pd.DataFrame:
    """Return for each relation and direction the head that the first half chose, with its values on the second.

    A row has `layer head share base gain mass` with intervals, `offset`, `words` and `chosen_by`, the share on the
    half that chose.
    """
    # Both halves come of one pass: the second call finds its parts on disk.
    choosing, reporting = (
        jh.relations(
            model,
            sentences,
            asked.labels,
            half=half,
            least=asked.least,
            seed=asked.seed,
            resume=asked.resume / "relations",
        )
        for half in (0, 1)
    )
    rows = [
        row(choosing, reporting, name)
        for name in reporting.metrics
        if not name.endswith(("_gain", "_mass")) and name in choosing.metrics
    ]
    return pd.DataFrame(rows)


def row(choosing: jh.HeadTable, reporting: jh.HeadTable, name: str) -> dict[str, Any]:
    """Return one relation's row."""
    best: Any = choosing.frame[name].idxmax()
    own: Any = reporting.frame.loc[best]
    relation, _, direction = name.rpartition("_to_")
    found = {"relation": relation, "direction": f"to {direction}", "layer": best[1], "head": best[2]}
    for ours, theirs in {"share": name, "gain": f"{name}_gain", "mass": f"{name}_mass"}.items():
        found |= {f"{ours}{end}": own[f"{theirs}{end}"] for end in ENDS}
    found |= {"base": own[f"{name}_base"], "offset": int(own[f"{name}_offset"]), "words": int(own[f"{name}_words"])}
    return {
        **found,
        "n": int(own[f"{name}_n"]),
        "chosen_by": choosing.frame.loc[best, name],
        "gain_chosen_by": choosing.frame.loc[best, f"{name}_gain"],
    }


def beside_nulls(own: pd.DataFrame, nulls: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows with the share and the gain of the head that each null would have chosen."""
    key = ["relation", "direction"]
    theirs: Any
    for name, theirs in nulls.items():
        renamed = {"share": f"share_{name}", "gain": f"gain_{name}", "gain_high": f"gain_high_{name}"}
        own = own.merge(theirs[[*key, *renamed]].rename(columns=renamed), on=key, how="left")
    return own


def above(frame: pd.DataFrame, points: float) -> int:
    """Return in how many directions the gain's interval lies above some points (0.1 are ten)."""
    return int(np.count_nonzero(frame["gain_low"].to_numpy() > points))


def span(row: Mapping[str, Any], name: str) -> str:
    """Return a number with its interval: "0.43 [0.30, 0.57]"."""
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def spanned(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Return a table for the page: numbers with their intervals in one cell."""
    cells = {name: [span(row, name) for row in frame.to_dict("records")] for name in names}
    rest = [name for name in frame if not any(name == f"{own}{end}" for own in names for end in ENDS)]
    order = [name for name in frame if name in rest or name in names]
    table: Any = frame.assign(**cells)
    return table[order].reset_index(drop=True)
