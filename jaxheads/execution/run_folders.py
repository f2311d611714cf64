"""The folders that `resume=` leaves in a directory: what questions they are of, when they ran, what they take."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTION = "question.json"


@dataclass(frozen=True)
class Run:
    """One question's folder.

    Attributes:
        words: its `question.json`: question, model, arguments, versions, started, finished.
        files, megabytes: of its parts.
        idle_days: since something was written last.
    """

    folder: Path
    words: dict[str, Any]
    files: int
    megabytes: float
    idle_days: float

    @property
    def finished(self) -> bool:
        """Whether the question was answered."""
        return bool(self.words.get("finished"))

    def row(self) -> dict[str, Any]:
        """Return the run as a row of a table for people."""
        arguments = self.words.get("arguments", {})
        return {
            "folder": self.folder.name,
            "model": self.words.get("model"),
            "asked": ", ".join(f"{name}={value}" for name, value in arguments.items()),
            "started": self.words.get("started"),
            "finished": self.words.get("finished") or "no",
            "files": self.files,
            "MB": round(self.megabytes, 1),
        }


def runs_in(directory: Path) -> Iterator[Run]:
    """Yield the runs that a directory holds, the one started first in front.

    Raises:
        ValueError: for a path that is no directory.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is no directory: give one that resume= was given")
    found = [(read_words(path), path.parent) for path in directory.glob(f"*/{QUESTION}")]
    for words, folder in sorted(found, key=lambda run: str(run[0].get("started"))):
        about = [path.stat() for path in folder.rglob("*.parquet")]
        newest = max((file.st_mtime for file in about), default=folder.stat().st_mtime)
        size = sum(file.st_size for file in about) / 1e6
        yield Run(folder, words, len(about), size, (time.time() - newest) / 86_400)


def prune(runs: Iterable[Run], *, unfinished: bool = False, days: float = 0.0) -> list[Run]:
    """Remove the folders of finished runs, and return these runs.

    Args:
        unfinished: also those that have no answer yet.
        days: only what nothing was written to for this long.
    """
    removed = [run for run in runs if (run.finished or unfinished) and run.idle_days >= days]
    for run in removed:
        shutil.rmtree(run.folder)
    return removed


def read_words(path: Path) -> dict[str, Any]:
    """Return the content of a `question.json`; nothing for one that is not there or not whole."""
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return words if isinstance(words, dict) else {}
