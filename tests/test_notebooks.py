"""Every notebook runs from its first cell to its last, on a small real model, and is committed with its outputs."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from .run_notebooks import NOTEBOOKS, code_sha256, executed

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

PICTURES = ("image/png", "image/svg+xml")


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(notebook: Any) -> list[str]:
    """The kinds of everything that is shown."""
    return [kind for output in outputs(notebook) for kind in output.get("data", {})]


def plain(output: Any) -> str:
    """The text of what is shown, for front ends without pictures."""
    return output.get("data", {}).get("text/plain", "")


def assert_shows_something(notebook: Any) -> None:
    assert any(kind in PICTURES for kind in kinds(notebook)), "no picture"
    assert "text/html" in kinds(notebook), "no table"
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    for output in outputs(notebook):
        assert not re.fullmatch(
            r"<(Figure|Axes|Picture|Panel)\b.*>", output.get("data", {}).get("text/plain", "")
        ) or any(kind in output.data for kind in PICTURES)


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ holds no .ipynb file: nothing was checked"


@notebooks
def test_a_notebook_is_committed_with_the_outputs_of_its_code(path: Path):
    notebook = nbformat.read(path, as_version=4)
    again = "run `python -m tests.run_notebooks`"
    assert notebook.metadata.get("jaxheads", {}).get("code_sha256") == code_sha256(notebook), f"stale outputs: {again}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert_shows_something(notebook)
    text = "\n".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(notebook)
    )
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work|usr|var)/|[Ww]arning|Traceback", text)


@pytest.mark.weights
@notebooks
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A notebook reads its model's name from here, so that the suite need not fetch the large one.
    monkeypatch.setenv("JAXHEADS_NOTEBOOK_MODEL", "glassllm-en")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # As in a user's Jupyter, not as in the suite: the kernel chooses the backend, and torch is not installed.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    assert_shows_something(executed(path, tmp_path))


SHOWN = """
import numpy as np
import jaxheads as jh
column = jh.tables.Column(np.eye(3), np.eye(3) - 0.1, np.eye(3) + 0.1)
table = jh.HeadTable.from_columns("own", "decoder", {"score": column})
table.plot("score")
---
table
---
jh.plots.evolution([0, 1, 2], {"loss": [3.0, 2.0, 1.0]})
---
import sys
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps figures, and shows them a second time"
---
%matplotlib inline
import matplotlib.pyplot as plt
table.plot("score")
---
assert not plt.get_fignums()
---
figure, ax = plt.subplots()
table.plot("score", ax=ax);
"""


def test_a_plot_shows_itself_once_with_and_without_the_inline_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in SHOWN.split("---\n")])
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    images = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]
    assert images == [1, 0, 1, 0, 1, 0, 1]
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert "text/html" in notebook.cells[1].outputs[0].data
