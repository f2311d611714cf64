"""Atomic writes: after a crash a file is complete or unchanged. The library writes all its files here.

An atlas may run for hours, be stopped at any moment, or meet a full disk. So a file is written under a temporary name
in its own directory, forced to the disk, and then renamed over the old one.
"""

import errno
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

Content = bytes | Callable[[BinaryIO], object]
"""The bytes to write, or a function that writes them to an open binary file."""


def write_atomically(path: str | os.PathLike[str], content: Content) -> Path:
    """Write one file completely or not at all, creating the directories above it, and return its path.

    After any error the old file, if any, is unchanged and no temporary file is left. Errors of `content` pass through.

    Raises:
        OSError: for a path that can't be written; the message names it.
    """
    return write_together({path: content})[0]


def write_together(contents: Mapping[str | os.PathLike[str], Content]) -> list[Path]:
    """Write several files that belong together: none is renamed before all of them are on the disk.

    Raises:
        OSError: as `write_atomically`.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for key, content in contents.items():
            path = Path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way")
            staged[path] = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            _write_through(staged[path], content)
        # The renames are not atomic together: a machine that stops between them leaves new files beside old ones, each
        # of them complete.
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except OSError as error:
        message = f"can't write {path}: {error.strerror or error}. Choose a directory that can be written"
        raise OSError(error.errno or errno.EIO, message) from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    return list(staged)


def _write_through(path: Path, content: Content) -> None:
    # open(), not tempfile: its files would ignore the user's umask.
    with open(path, "xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
