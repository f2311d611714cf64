"""What `experiments.ioi` writes down: tables, pictures, a summary for a reader."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from jaxheads.data import IOIPrompts
from jaxheads.files import Content, write_together
from jaxheads.tables import HeadTable

from .ioi_paths import LEAST, MOST, Circuit, Step

LEADING = 10
SHARP = 0.2
"""The least attention from END that a head is said to look somewhere with."""
PLACES = ("end_to_io", "end_to_s1", "end_to_s2")


@dataclass(frozen=True)
class Findings:
    """All that is written down."""

    prompts: IOIPrompts
    corrupted: IOIPrompts
    effects: HeadTable
    attention: HeadTable
    leading: pd.DataFrame
    circuit: Circuit
    comparison: pd.DataFrame


def write(findings: Findings, directory: Path, about: dict[str, Any]) -> list[Path]:
    """Tables, pictures, summary and provenance into a directory."""
    steps = {_file_name(step): step.table for step in findings.circuit.steps}
    tables = [findings.effects, findings.attention, *(replace(table, name=name) for name, table in steps.items())]
    paths = [path for table in tables for path in table.save(directory)]
    contents: dict[str, Content] = {
        "summary.md": summary(findings, about).encode(),
        "provenance.json": (json.dumps(about, indent=2) + "\n").encode(),
        "effects.png": partial(_picture, findings.effects, "effect"),
        "end_to_io.png": partial(_picture, findings.attention, "end_to_io"),
    }
    circuit = findings.circuit
    frames = {"comparison": findings.comparison, "leading": findings.leading}
    frames |= {"circuit": circuit.heads.set_index("role"), "faithfulness": circuit.faithfulness}
    for name, frame in frames.items():
        contents[f"{name}.csv"] = frame.to_csv(lineterminator="\n").encode()
        contents[f"{name}.md"] = (markdown(frame) + "\n").encode()
    return paths + write_together({directory / name: content for name, content in contents.items()})


def summary(findings: Findings, about: dict[str, Any]) -> str:
    """What was found, for a reader."""
    count, chosen = len(findings.prompts.texts), len(findings.prompts.texts) // 2
    return f"""# Indirect objects: {about["model"]}

{count} prompts, such as "{findings.prompts.texts[0]}", and their ABC corruptions, such as
"{findings.corrupted.texts[0]}". Intervals: 95 %, bootstrap over prompts.

{markdown(findings.comparison)}

The paper's model, prompts and templates are others: the two columns are neighbours, not a replication.
P(IO) and the attention of a kind of heads are means over prompts; NaN: no leading head is of that kind.

## The {len(findings.leading)} heads with the largest effect

Effect: what the logit difference becomes, less what it was, when a head's output is replaced by its mean over ABC
prompts of the same template and position ({about["reference"]}). Chosen on {chosen} prompts, where `kind` was
read off as well (the sign of the effect, and where the head looks most from END, with at least {SHARP} of its
attention); all other columns are of the other {count - chosen} prompts.

{markdown(findings.leading)}

## The circuit, by path patching

Backwards from the logits, as the paper does: at most {MOST} heads of each role, those whose direct paths to the
receivers move at least {LEAST:.0%} of the whole difference between the prompts and their ABC corruptions. Chosen on
{chosen} prompts; effects (on the logit difference, of the paths alone) are of the other {count - chosen}.

{markdown(findings.circuit.heads.set_index("role"))}

What is left of the preference when only these heads work, all others replaced by their means over ABC prompts of the
same template and position (the other {count - chosen} prompts). Share: 0 with no head, 1 with all.

{markdown(findings.circuit.faithfulness)}
"""


def _file_name(step: Step) -> str:
    return f"paths-{step.role.replace(' ', '-').lower()}"


def markdown(frame: pd.DataFrame) -> str:
    """A table for readers."""
    return frame.reset_index().to_markdown(index=False, floatfmt=".3g")


def _picture(table: HeadTable, column: str, file: BinaryIO) -> None:
    table.plot(column).get_figure(root=True).savefig(file, format="png", dpi=80)  # type: ignore[union-attr]
