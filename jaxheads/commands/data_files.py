"""Columns of a data set in a file: lines of text, JSON lines, CSV, or parquet."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import nearest


def read_columns(path: Path, names: Sequence[str], limit: int | None = None) -> dict[str, list[Any]]:
    """Return columns of a file by name; a .txt file has the column "text", one example a line.

    Raises:
        ValueError: for another ending, a file that can't be read, a missing column, an empty cell, or no row.
    """
    path = path.expanduser()
    frame = _frame(path, limit)
    if not len(frame):
        raise ValueError(f"{path} holds no example")
    columns = list(map(str, frame))
    for name in names:
        if name not in columns:
            raise ValueError(f"{path} has the columns {', '.join(columns)}; got {name!r}{nearest(name, columns)}")
        empty = [row for row, cell in enumerate(frame[name], 1) if cell is None or cell != cell or cell == ""]
        if empty:
            raise ValueError(f"{path}: column {name!r} is empty in row {empty[0]}")
    return {name: frame[name].tolist() for name in names}


def _frame(path: Path, limit: int | None) -> pd.DataFrame:
    try:
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            frame = pd.DataFrame({"text": [line for line in lines if line.strip()]})
        elif path.suffix in (".jsonl", ".ndjson"):
            lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
            frame = pd.DataFrame([_row(number, line) for number, line in lines if line.strip()])
        elif path.suffix == ".csv":
            frame = pd.read_csv(path, nrows=limit, keep_default_na=False)
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise ValueError(f"expected a file that ends in .txt, .jsonl, .csv or .parquet, got {path.suffix!r}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return frame if limit is None else frame.head(limit)


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} must be an object with columns by name, got {type(row).__name__}")
    return row
