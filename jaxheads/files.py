"""Atomic writes: after a crash a file is complete or unchanged. The library writes all its files here.

An atlas may run for hours, be stopped at any moment, or meet a full disk. So a file is written under a temporary name
in its own directory, forced to the disk, and then renamed over the old one. Temporaries of a process that was killed
are removed by the next call that writes into their directory.
"""

import ctypes
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .interrupts import uninterrupted

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, so nothing is swept
    fcntl = None

Content = bytes | Callable[[BinaryIO], object]
"""The bytes to write, or a function that writes them to an open binary file."""

TEMPORARY = ".jaxheads.tmp"
"""Ending of the names of temporary files and directories."""

PATIENCE = 1000
"""Hundredths of a second to wait for the renames of another process."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | os.PathLike[str], content: Content) -> Path:
    """Write one file completely or not at all, creating the directories above it, and return its path.

    After any error the old file, if any, is unchanged and no temporary file is left. Errors of `content` pass through.

    Raises:
        OSError: for a path that can't be written; the message names it.
    """
    return write_together({path: content})[0]


def write_together(
    contents: Mapping[str | os.PathLike[str], Content], removed: Iterable[str | os.PathLike[str]] = ()
) -> list[Path]:
    """Write several files that belong together: none is renamed before all of them are on the disk.

    The renames are not atomic together, but signals wait for them, and so do other processes that write into the same
    directories. Only a process that is killed between two of them leaves new files beside old ones. They run from the
    last file to the first.

    Args:
        removed: files that don't belong to the new ones; they go after the renames.

    Raises:
        OSError: as `write_atomically`.
    """
    paths = [Path(key) for key in contents]
    path = Path()
    with ExitStack() as stack:
        try:
            staged: list[Path] = []
            for path, content in zip(paths, contents.values(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "a directory is in the way")
                temporary, file = stack.enter_context(_temporary_file(path.parent))
                staged.append(temporary)
                _write_through(file, content)
            for folder in sorted({path.parent for path in paths}):
                stack.enter_context(_locked(folder))
            with uninterrupted():
                for path, temporary in reversed(list(zip(paths, staged, strict=True))):
                    os.replace(temporary, path)
                for path in map(Path, removed):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
    return paths


def check_writable(directory: Path) -> None:
    """Try to write 4 MB where a directory is or will be: before long work, not after it. Nothing is left there.

    Raises:
        OSError: where that fails; the message names the directory.
    """
    try:
        existing = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
        with _temporary_file(existing) as (_, file):
            _write_through(file, bytes(4 * 2**20))
    except OSError as error:
        raise unwritable(directory, error) from error


def unwritable(path: Path, error: BaseException) -> OSError:
    """Return an error that names the path, the reason and the way out."""
    number = _error_number(error)
    reason = (error.strerror if isinstance(error, OSError) else None) or (os.strerror(number) if number else error)
    way_out = "Free some space, or choose" if number in FULL else "Choose"
    return OSError(number or errno.EIO, f"can't write {path}: {reason}. {way_out} a directory that can be written")


def disk_is_full(error: BaseException) -> bool:
    """Whether an error comes from a full disk, a quota or a limit on files, whatever library raised it."""
    return _error_number(error) in FULL


def _error_number(error: BaseException) -> int:
    """Return the system's number of an error, read from the words where a library's own type hides it; else 0."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return next((number for number in FULL if os.strerror(number) in str(error)), 0)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Make a directory in `parent`, which is made if necessary, and remove it at the end, unless it was renamed.

    If the process is killed, the next call that writes in this parent removes it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    while True:
        path = _temporary_name(parent)
        path.mkdir()
        if fcntl is None:
            descriptor = None
            break
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # a sweep was faster
            continue
        if _keep_from_sweeps(path, descriptor):
            break
        os.close(descriptor)
    try:
        yield path
    finally:
        _discard(path)
        if descriptor is not None:
            os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove temporaries that killed processes have left in a directory.

    A process holds a lock on its temporaries, which ends with it: what can be locked belongs to nobody.
    """
    if fcntl is None or not directory.is_dir():
        return
    with suppress(OSError), os.scandir(directory) as entries:
        leftovers = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(TEMPORARY)]
    for path in leftovers:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(Path(path))
            finally:
                os.close(descriptor)


def swap(one: Path, other: Path) -> None:
    """Exchange two directories of one parent: in one step where the system can, else in two renames.

    Between the two renames `other` is missing; `restore_swapped` puts it back.
    """
    if _exchanged(one, other):
        return
    aside = _aside(other)
    with uninterrupted():
        os.rename(other, aside)
        try:
            os.rename(one, other)
        except BaseException:
            os.rename(aside, other)
            raise
        os.rename(aside, one)


def restore_swapped(path: Path) -> None:
    """Put a directory back that a killed `swap` has moved aside; remove what it has left beside the new one."""
    aside = _aside(path)
    if aside.is_dir():
        if path.exists():
            _discard(aside)
        else:
            os.rename(aside, path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.jaxheads.old")


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return False where the system or its disk can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _temporary_file(directory: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file that is removed at the end, unless it was renamed."""
    sweep(directory)
    while True:
        path = _temporary_name(directory)
        # open(), not tempfile: its files would ignore the user's umask.
        file = open(path, "xb")  # noqa: SIM115
        if fcntl is None or _keep_from_sweeps(path, file.fileno()):
            break
        file.close()
    try:
        yield path, file
    finally:
        with suppress(OSError):  # it flushes what a full disk has refused already
            file.close()
        _discard(path)


def _temporary_name(directory: Path) -> Path:
    return directory / f".{secrets.token_hex(8)}{TEMPORARY}"


def _keep_from_sweeps(path: Path, descriptor: int) -> bool:
    """Lock a new temporary; return False if a sweep has removed it before the lock."""
    assert fcntl is not None
    with suppress(OSError):  # a disk without locks, where no sweep removes anything
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path.exists()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, where its disk has locks; a temporary directory is its process's own."""
    with ExitStack() as stack:
        if fcntl is not None and not directory.name.endswith(TEMPORARY):
            with suppress(OSError):
                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                _wait_for_lock(descriptor)
        yield


def _wait_for_lock(descriptor: int) -> None:
    """Take a lock. Renames last milliseconds: a process that holds it for longer was stopped in the middle of them."""
    assert fcntl is not None
    for _ in range(PATIENCE):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return


def _discard(path: Path) -> None:
    """Remove a file or folder as far as possible: what goes wrong here must not hide an earlier error."""
    if path.is_dir() and not path.is_symlink():
        # Threads of a library whose write has failed (orbax) may still write there for a moment.
        for _ in range(100):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                return
            time.sleep(0.01)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write_through(file: BinaryIO, content: Content) -> None:
    if isinstance(content, bytes):
        file.write(content)
    else:
        content(file)
    file.flush()
    os.fsync(file.fileno())
    if fcntl is None:
        file.close()  # Windows renames no open file
