"""Run the committed notebooks and store their outputs: `python -m tests.run_notebooks [NAME …]`."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """A notebook with the outputs of a fresh kernel that works in a folder; raises for an error in a cell."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    return notebook


def code_sha256(notebook: Any) -> str:
    """A hash of all code: outputs of other code are stale."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def main(names: list[str]) -> None:
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAXHEADS_PROGRESS": "0"}  # bars are no results
    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        notebook = executed(path, FOLDER)
        notebook.metadata["jaxheads"] = {"code_sha256": code_sha256(notebook)}
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
