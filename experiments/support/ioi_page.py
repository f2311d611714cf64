"""The results of `experiments.ioi`: tables, pictures, and the page for readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

import jaxheads as jh
from jaxheads.data import IOIPrompts
from jaxheads.report import model_title

from .. import lab
from .ioi_circuit import LEAST, MOST, Circuit

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
    effects, attention = jh.plots.panels(1, (6, 8)), jh.plots.panels(1, (6, 8))
    findings.effects.plot("effect", effects[1][0])
    findings.attention.plot("end_to_io", attention[1][0])
    return lab.Results(
        page(findings, about),
        about,
        tables,
        {"effects": effects[0], "end_to_io": attention[0]},
        heads={"ablate": findings.effects, "attention": findings.attention, **steps},
        others={f"{name}.md": f"{lab.markdown(table)}\n".encode() for name, table in tables.items()},
    )


def page(findings: Findings, about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    count, templates = len(findings.prompts.texts), len(set(findings.prompts.template.tolist()))
    held_out = int(findings.leading["effect_n"].to_numpy().max())
    return f"""# Indirect objects: {model_title(about["model"])}

{count} prompts of {templates} templates, such as "{findings.prompts.texts[0]}", and their ABC corruptions, such as
"{findings.corrupted.texts[0]}". Intervals: 95 %, over templates, whose prompts share their words; n counts templates.

{lab.markdown(findings.comparison)}

The paper used another model, other prompts and other templates: the columns can be compared, but this is no
replication. P(IO) and the attention of the heads of a role are means over prompts; NaN: no head has that role. Roles
are by path patching, below, as the paper's are.

## The {len(findings.leading)} heads with the largest effect

Effect: the change of the logit difference when a head's output is replaced by its mean over ABC prompts of the same
template and position ({about["reference"]}). Heads were chosen on the prompts of {templates - held_out} templates;
`effect_when_chosen` and `attends_to` (the name that the head attends to most from END, with at least {SHARP} of its
attention) are of these prompts. All other columns are of the other {held_out} templates: `optimism` is by how much the
effect was larger when chosen, q is corrected over these {len(findings.leading)} heads. `role` is the role that path
patching gave to the head. Whole effects and paths are different questions: a head may lead here and have no role.

{lab.markdown(findings.leading)}

## The circuit, by path patching

Backwards from the logits, as in the paper. Each role has at most {MOST} heads: those whose direct paths to the
receivers move at least {LEAST:.0%} of the whole difference between the prompts and their ABC corruptions. Heads were
chosen on {templates - held_out} templates; effects (on the logit difference, of the paths alone), optimism and q
(corrected within a role) are of the other {held_out}.

{lab.markdown(findings.circuit.heads.set_index("role"))}

The preference that is left when only these heads work and all others are replaced by their means over ABC prompts of
the same template and position (the other {held_out} templates). Share: 0 with no head, 1 with all heads; its interval
is Fieller's, and has no ends where the whole can't be told from no head.

{lab.markdown(findings.circuit.faithfulness)}
"""
