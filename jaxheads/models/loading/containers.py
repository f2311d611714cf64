"""Checks that the readers of all containers share: what counts as a file, and what a broken one raises."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def file_size(path: Path) -> int:
    """Return the size of a file in bytes. Readers call it before they open: a named pipe would keep them waiting.

    Raises:
        ValueError: for a directory, a pipe, a device or a socket.
        OSError: where there is nothing, a circle of links, or no permission to look.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, expected a file")
    return status.st_size


def is_present(path: Path) -> bool:
    """Return whether a directory has an entry of this name, be it a broken link: that is a fault, not an absence."""
    return os.path.lexists(path)


def require_files(directory: Path) -> None:
    """Raise ValueError if an entry of the directory is a pipe, a device or a socket: a library might open it."""
    for entry in sorted(directory.iterdir()):
        if entry.exists() and not entry.is_dir():
            file_size(entry)


@contextmanager
def reading(path: Path | str, kind: str, remedy: str = "Fetch it again.") -> Iterator[None]:
    """Turn whatever a broken file ends a reader in into a ValueError that names the file.

    Args:
        path: the file, or what to call a part of one.
        kind: the container, "a GGUF file".
        remedy: what mends it, the last sentence of the message.
    """
    try:
        yield
    except BaseException as error:
        # Errors of Rust (tokenizers, safetensors) that nothing catches there are no Exceptions.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if (type(error) is ValueError and str(error).startswith(str(path))) or _names(error, path):
            raise
        raise ValueError(f"{path} can't be read as {kind}: {reason(error)}{remedy and '. '}{remedy}") from error


def _names(error: BaseException, path: Path | str) -> bool:
    """Whether an error of the operating system names the file already."""
    return isinstance(error, OSError) and error.filename is not None and str(error.filename).startswith(str(path))


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters, or the error's kind."""
    lines = str(error).strip().splitlines()
    first = lines[0][:300].rstrip(". ") if lines else ""
    if isinstance(error, ValueError | OSError | RuntimeError) and first:
        return first
    return f"{type(error).__name__} {first}".strip()


def listed(names: Sequence[str], most: int = 8) -> str:
    """Join names with commas; beyond `most`, count the others."""
    first = ", ".join(name[:200] for name in names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"
