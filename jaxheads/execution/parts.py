"""Parts of a computation on disk: a folder for each question, in it few parquet files that hold many parts each.

New parts wait in memory for at most some seconds, then they become a file. Ten small files become a larger one, ten of
these again, so that a folder holds some dozens of files however long the work lasts. Whoever is killed loses the parts
that waited. A file that was merged is removed after the new one is there: what is found twice is removed later.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_atomically, write_together
from .identity import content_sha256
from .run_folders import QUESTION, read_words

SECONDS = 5.0
"""Seconds since the last file after which parts become a file."""

WAITING = 32 * 2**20
"""Bytes of waiting parts that become a file whatever the time."""

MERGED = 10
"""Files that become one."""

LARGE = 128 * 2**20
"""Bytes from which on a file is not merged any more."""

_PARTS = b"jaxheads.parts"

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """The entries of a file that are one part."""

    path: Path
    first: int
    shape: tuple[int, ...]
    digest: str


@dataclass
class _Kind:
    """The parts of one kind, which share their columns.

    Attributes:
        files: the number of merges behind each file.
        places: where each part is; a part may be in several files.
        waiting: parts that are in no file yet.
    """

    folder: Path
    files: dict[Path, int] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    waiting: list[tuple[str, np.ndarray, pa.Table]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.parquet")):
            if (parts := _parts(path)) is not None:
                self.hold(path, parts)
        held: dict[Path, set[str]] = {}
        for name, places in self.places.items():
            for place in places:
                held.setdefault(place.path, set()).add(name)
        for path, names in held.items():
            # A process that was killed between a merge and the removal of what it merged has left both.
            others = [other for other, level in self.files.items() if level > self.files[path]]
            if any(names <= held.get(other, set()) for other in others):
                self.drop([path])
                path.unlink(missing_ok=True)

    def hold(self, path: Path, parts: Sequence[Mapping[str, Any]]) -> None:
        """Take a file's parts into the places."""
        self.files[path], first = int(path.name.partition("-")[0]), 0
        for part in parts:
            shape = tuple(part["shape"])
            self.places.setdefault(part["name"], []).append(Place(path, first, shape, part["sha256"]))
            first += int(np.prod(shape))

    def drop(self, paths: Iterable[Path]) -> None:
        """Forget some files."""
        gone = set(paths)
        self.files = {path: level for path, level in self.files.items() if path not in gone}
        kept = {name: [place for place in places if place.path not in gone] for name, places in self.places.items()}
        self.places = {name: places for name, places in kept.items() if places}


class Parts:
    """Finished parts of one question.

    Args:
        folder: where its files are; made with the first of them.
        about: the question in words, for its `question.json`; called once.
        waits: whether parts may wait for others until `close`.
    """

    def __init__(self, folder: Path, about: Callable[[], Mapping[str, Any]] = dict, *, waits: bool = True):
        self.folder, self._about = folder, about
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.RLock()
        self._written, self._waits, self._has_words = time.monotonic(), waits, False
        self._last: tuple[Path, np.ndarray] | None = None

    def read(self, kind: str, name: str) -> np.ndarray | None:
        """Return a part as it was written; None where there is none, or one that is damaged."""
        with self._lock:
            own = self._kind(kind)
            for waiting, value, _ in own.waiting:
                if waiting == name:
                    return value.copy()
            places = own.places.get(name, [])
            for place in reversed(places):
                if (value := self._value(own, name, place)) is not None:
                    return value
            for place in places:
                logger.warning("%s is damaged: %s is computed again", place.path, name)
            own.places.pop(name, None)
            return None

    def add(self, kind: str, name: str, value: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Store a part, with columns that are broadcast to its shape, soon."""
        table = {key: np.broadcast_to(column, value.shape).reshape(-1) for key, column in columns.items()}
        with self._lock:
            self._kind(kind).waiting.append((name, value, pa.table({**table, "value": value.reshape(-1)})))
            size = sum(part.nbytes for own in self._kinds.values() for *_, part in own.waiting)
            # Time since the last file, not since the part came: what took long is written at once.
            if not self._waits or size > WAITING or time.monotonic() - self._written >= SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write all parts that wait."""
        with self._lock:
            for own in self._kinds.values():
                if own.waiting:
                    self._describe()
                    tables = [part for *_, part in own.waiting]
                    about = [_description(own.folder, name, value) for name, value, _ in own.waiting]
                    self._write(own, 0, time.time_ns(), tables, about)
                    own.waiting.clear()
                    self._merge(own)
            self._written = time.monotonic()

    def close(self, *, finished: bool) -> None:
        """Write all parts that wait, and in `question.json` when the question was finished. Later parts don't wait."""
        with self._lock:
            self.flush()
            self._waits = False
            if finished and jax.process_index() == 0:
                words = read_words(self.folder / QUESTION)
                if words and not words.get("finished"):
                    self._put_words({**words, "finished": _now()})

    def _kind(self, kind: str) -> _Kind:
        if kind not in self._kinds:
            self._kinds[kind] = _Kind(self.folder / kind)
        return self._kinds[kind]

    def _value(self, own: _Kind, name: str, place: Place) -> np.ndarray | None:
        """Return the part at a place, if it is there as it was written."""
        if self._last is None or self._last[0] != place.path:
            try:
                column = _read(place.path, ["value"])["value"].to_numpy()
            except Exception:  # a damaged file fails in any layer of the reader, in whatever way
                return None
            self._last = place.path, column
        values = self._last[1][place.first : place.first + int(np.prod(place.shape))]
        if values.size != np.prod(place.shape):
            return None
        value = values.reshape(place.shape).copy()
        return value if _description(own.folder, name, value)["sha256"] == place.digest else None

    def _write(
        self,
        own: _Kind,
        level: int,
        number: int,
        tables: Sequence[pa.Table],
        parts: Sequence[Any],
        merged: Sequence[Path] = (),
    ) -> None:
        """Write a file of some parts, and remove those that it replaces."""
        path = own.folder / f"{level}-{number}-{secrets.token_hex(4)}.parquet"
        table = pa.concat_tables(tables, promote_options="permissive")
        table = table.replace_schema_metadata({_PARTS: json.dumps(parts)})
        write_together({path: partial(_write_table, table)}, removed=merged)
        own.drop(merged)
        own.hold(path, parts)

    def _merge(self, own: _Kind) -> None:
        """Make one file of each ten that were merged as often, as long as they are small."""
        level = 0
        while level <= max(own.files.values(), default=-1):
            small = sorted(path for path, merges in own.files.items() if merges == level and _size(path) < LARGE)
            if len(small) < MERGED:
                level += 1
                continue
            whole = [(path, parts, _table(path)) for path in small[:MERGED] if (parts := _parts(path)) is not None]
            whole = [(path, parts, table) for path, parts, table in whole if table is not None]
            own.drop(set(small[:MERGED]) - {path for path, *_ in whole})
            if whole:
                paths, parts, tables = zip(*whole, strict=True)
                number = int(paths[0].name.split("-")[1])
                self._write(own, level + 1, number, tables, [part for own_parts in parts for part in own_parts], paths)

    def _describe(self) -> None:
        """Write the question in words, once; the folder of an earlier run keeps when that began."""
        if self._has_words:
            return
        self._has_words = True
        started = read_words(self.folder / QUESTION).get("started") or _now()
        self._put_words({**self._about(), "started": started, "finished": None})

    def _put_words(self, words: Mapping[str, Any]) -> None:
        write_atomically(self.folder / QUESTION, json.dumps(words, indent=1, default=str).encode())


def _description(folder: Path, name: str, value: np.ndarray) -> dict[str, Any]:
    """Describe a part; its hash is of its name, too, with its question's: content counts under no other name."""
    whole = f"{folder.parent.name}/{folder.name}/{name}"
    return {"name": name, "shape": list(value.shape), "sha256": content_sha256(whole, value)}


def _parts(path: Path) -> list[dict[str, Any]] | None:
    """Return what a file says of its parts; None for one that is gone or damaged, which is removed."""
    try:
        parts = json.loads((pq.read_schema(path).metadata or {})[_PARTS])
        [(part["name"], part["shape"], part["sha256"]) for part in parts]
    except FileNotFoundError:
        return None
    except Exception:  # as above
        logger.warning("%s is damaged: its parts of the work are computed again", path)
        path.unlink(missing_ok=True)
        return None
    return parts


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    # Not `pq.read_table`, which takes a directory "seed=3" above the file for a column.
    with pq.ParquetFile(path) as file:
        return file.read(columns)


def _table(path: Path) -> pa.Table | None:
    try:
        return _read(path)
    except Exception:  # as above: what can't be read is computed again when it is asked for
        return None


def _write_table(table: pa.Table, file: BinaryIO) -> None:
    pq.write_table(table, file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
