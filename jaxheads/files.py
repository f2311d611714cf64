"""Files that are either whole or not there: everything the library writes goes through here.

An atlas may run for hours and be stopped at any moment, on a disk that may be full. So a file is written
under a temporary name in its own directory, forced to the disk, and only then renamed over the old one.
"""

import errno
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

Content = bytes | Callable[[BinaryIO], object]
"""What to write: the bytes, or a function that writes them to the open binary file it is given."""


def write_atomically(path: str | os.PathLike[str], content: Content) -> Path:
    """Write one file whole or not at all, creating the directories above it, and return its path.

    Raises OSError naming the path where it can't be written. Whatever else `content` raises passes through.
    After any error the old file, if there was one, is untouched and no temporary file is left.
    """
    return write_together({path: content})[0]


def write_together(contents: Mapping[str | os.PathLike[str], Content]) -> list[Path]:
    """Write several files that belong together: none is put in place before all of them are on the disk.

    Raises as `write_atomically` does. (The renames at the end are one by one: only a machine that stops in
    just that moment leaves new files beside old ones. Each file is whole even then.)
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
    # open(), not tempfile: the file gets the permissions the user's umask gives any other file
    with open(path, "xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
