"""Text files by lines, whose errors name file and line."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: from 1.
        text: without its end.
    """

    number: int
    text: str


class TextFile(NamedTuple):
    """A text file that was read.

    Attributes:
        name: the file's name, without its folder.
        sha256: of its bytes.
        lines: all lines.
    """

    name: str
    sha256: str
    lines: list[Line]

    def at(self, line: int) -> str:
        """Return the words that errors name a line with."""
        return f"{self.name}:{line}"

    def blocks(self) -> Iterator[list[Line]]:
        """Yield the runs of lines between blank ones."""
        block: list[Line] = []
        for line in self.lines:
            if line.text.strip():
                block.append(line)
            elif block:
                yield block
                block = []
        if block:
            yield block


def read_lines(path: str | os.PathLike) -> TextFile:
    """Read a UTF-8 file.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for bytes that are not UTF-8, with their line, or a file without text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is not there: give the path of a file")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name}:{line}: expected UTF-8, got byte {raw[error.start]:#04x}: convert it") from None
    if not text.strip():
        raise ValueError(f"{path.name}: expected text, and the file is empty")
    # Not splitlines: it breaks at characters that may stand within a word.
    lines = [Line(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    return TextFile(path.name, hashlib.sha256(raw).hexdigest(), lines)


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Put file and line before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(place.split(":")[0]):
            raise
        raise ValueError(f"{place}: {error}") from error
