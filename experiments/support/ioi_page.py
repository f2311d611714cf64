"""The results of `experiments.ioi`: tables, pictures, and the page for readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

import jaxheads as jh
from experiments import lab
from experiments.support.ioi_circuit import LEAST, MOST, Circuit
from jaxheads.data import IOIPrompts

LEADING = 10
"""The number of leading heads."""
SHARP = 0.2
"""The least attention from END at which a head counts as attending to a name."""
POSITIONS = ("end_to_io", "end_to_s1", "end_to_s2")
"""Columns of the attention from END to each name."""


@dataclass(frozen=True)
class Findings:
    """The prompts and all measures of one model."""

    prompts: IOIPrompts
    corrupted: IOIPrompts
    effects: jh.HeadTable
    attention: jh.HeadTable
    leading: pd.DataFrame
    circuit: Circuit
    comparison: pd.DataFrame


def findings_results(findings: Findings, about: Mapping[str, Any]) -> lab.Results:
    """Return everything that is written."""
    circuit = findings.circuit
    tables = {
        "comparison": findings.comparison,
        "leading": findings.leading,
        "circuit": circuit.heads.set_index("role"),
        "faithfulness": circuit.faithfulness,
    }
    steps = {f"paths-{step.role.replace(' ', '-').lower()}": step.table for step in circuit.steps}
    pictures = {
        "effects": findings.effects.plot("effect"),
        "end_to_io": findings.attention.plot("end_to_io"),
    }
    return lab.Results(
        page(findings, about),
        about,
        tables,
        {name: axes.figure for name, axes in pictures.items()},  # type: ignore[misc]
        heads={"ablate": findings.effects, "attention": findings.attention, **steps},
        others={f"{name}.md": f"{lab.markdown(table)}\n".encode() for name, table in tables.items()},
    )


def page(findings: Findings, about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    count, chosen_on = len(findings.prompts.texts), len(findings.prompts.texts) // 2
    held_out = count - chosen_on
    return f"""# Indirect objects: {about["model"]}

{count} prompts, such as "{findings.prompts.texts[0]}", and their ABC corruptions, such as
"{findings.corrupted.texts[0]}". Intervals: 95 %, bootstrap over prompts.

{lab.markdown(findings.comparison)}

The paper used another model, other prompts and other templates: the columns can be compared, but this is no
replication. P(IO) and the attention of a kind of heads are means over prompts; NaN: no leading head is of that kind.

## The {len(findings.leading)} heads with the largest effect

Effect: the change of the logit difference when a head's output is replaced by its mean over ABC prompts of the same
template and position ({about["reference"]}). Heads were chosen on {chosen_on} prompts; `kind` is of these prompts too
(the sign of the effect, and the name that the head attends to most from END, with at least {SHARP} of its attention).
All other columns are of the other {held_out} prompts.

{lab.markdown(findings.leading)}

## The circuit, by path patching

Backwards from the logits, as in the paper. Each role has at most {MOST} heads: those whose direct paths to the
receivers move at least {LEAST:.0%} of the whole difference between the prompts and their ABC corruptions. Heads were
chosen on {chosen_on} prompts; effects (on the logit difference, of the paths alone) are of the other {held_out}.

{lab.markdown(findings.circuit.heads.set_index("role"))}

The preference that is left when only these heads work and all others are replaced by their means over ABC prompts of
the same template and position (the other {held_out} prompts). Share: 0 with no head, 1 with all heads.

{lab.markdown(findings.circuit.faithfulness)}
"""
