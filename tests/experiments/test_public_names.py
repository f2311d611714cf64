"""Experiments stand on the public names of jaxheads alone."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxheads as jh

ROOT = Path(__file__).parent.parent.parent
PUBLIC = (
    "data",
    "data.tasks",
    "evidence",
    "measure.patterns",
    "measure.relevance",
    "measure.weights",
    "report",
    "statistics",
    "sweep.circuits",
    "plots",
    "tables",
    "train",
)
"""Packages whose `__all__` is public, beside `jaxheads` itself."""

LAB_ALONE = {
    f"jaxheads.{name}" for name in ("execution.identity", "extras", "files", "interrupts", "progress", "provenance")
}
"""Modules that only the frame of the experiments imports."""


def private_names(source: str, *, lab: bool = False) -> Iterator[str]:
    """Yield everything of jaxheads that a module uses and that is not public."""
    allowed = {f"jaxheads.{name}" for name in PUBLIC}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name
                for alias in node.names
                if alias.name.split(".")[0] == "jaxheads" and (alias.name, alias.asname) != ("jaxheads", "jh")
            )
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxheads":
            if lab and node.module in LAB_ALONE:
                continue
            public = importlib.import_module(node.module).__all__ if node.module in allowed else ()
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "jh" and node.attr not in jh.__all__:
            yield f"jh.{node.attr}"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: path.stem)
def test_an_experiment_uses_public_names_alone(path: Path):
    is_lab = path == ROOT / "experiments" / "lab.py"
    assert not list(private_names(path.read_text(encoding="utf-8"), lab=is_lab))


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("import jaxheads as jh\njh.load('small')", []),
        ("from jaxheads.train import train", []),
        ("from jaxheads.train import _train", ["jaxheads.train._train"]),
        ("from jaxheads.train.loop import train", ["jaxheads.train.loop.train"]),
        ("from jaxheads.files import write_together", ["jaxheads.files.write_together"]),
        ("import jaxheads.models.network", ["jaxheads.models.network"]),
        ("import jaxheads as jh\njh.models.network", ["jh.models"]),
    ],
)
def test_the_check_itself(source: str, private: list[str]):
    assert list(private_names(source)) == private
