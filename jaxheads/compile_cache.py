"""Compiled programs on disk, so that a second run of equal shapes does not compile.

JAX runs what it reads from such a cache, and one changed byte ends the process. So the folder is the user's alone, and
every entry begins with a hash, without which JAX never sees it.
"""

import functools
import hashlib
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO

import jax
from jax._src import compilation_cache  # JAX has no public way to put a cache of another kind in its place
from jax._src.compilation_cache_interface import CacheInterface

from .cache import cache_directory

LIMIT = 2**30
"""Bytes that all programs may take, unless `jax_compilation_cache_max_size` has another number."""


SECONDS = 0.1
"""Compilations that take less are not kept, unless `jax_persistent_cache_min_compile_time_secs` was set."""

logger = logging.getLogger(__name__)


@functools.cache
def keep_by_default() -> None:
    """Keep compiled programs below the user's cache, once jaxheads first compiles; see `keep_compilations`.

    What can't be kept is no more than a line for those who log: a home that can't be written ends no run.
    """
    try:
        keep_compilations(cache_directory() / "xla")
    except (OSError, AttributeError, RuntimeError) as error:
        logger.info("compiled programs are not kept: %s", error)


def keep_compilations(folder: Path) -> None:
    """Let JAX keep programs in a folder of mode 0700, made if necessary.

    JAX's own settings come first, where they name another folder or no cache at all.

    Raises:
        OSError: for a folder that is not safe, or can't be made or written.
        AttributeError: for a JAX whose cache can't be replaced.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return
    programs = Programs(folder, _private(folder))
    usual = compilation_cache.get_file_cache
    compilation_cache.get_file_cache = lambda path: (programs, path) if path == str(folder) else usual(path)
    programs.is_chosen = True
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if settings["jax_persistent_cache_min_compile_time_secs"] == _USUAL_SECONDS:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # XLA would write files of its own there


_USUAL_SECONDS = 1.0
"""JAX's own limit, as long as nobody has set another one."""


class Programs(CacheInterface):
    """Compiled programs by JAX's keys, each in a file that begins with the hash of key and program.

    Errors of the disk are misses: the program is compiled.

    Args:
        folder: the path of the folder, for messages.
        descriptor: the open folder. Who moves another one to its path changes nothing here.
    """

    is_chosen = False
    """Whether JAX has been told to use these programs."""

    def __init__(self, folder: Path, descriptor: int):
        self._path, self._folder = folder, descriptor

    def get(self, key: str) -> bytes | None:
        """Return a program; None where there is none, or one that was changed on the disk."""
        if self.is_chosen and jax.config.values["jax_compilation_cache_dir"] != str(self._path):
            # The user has chosen another folder since: from the next access on JAX asks that one.
            compilation_cache.reset_cache()
            return None
        name = _name(key)
        try:
            with self._open(name, os.O_RDONLY) as file:
                digest, program = file.read(32), file.read()
            if digest == _digest(key, program):
                os.utime(name, dir_fd=self._folder)
                return program
            os.unlink(name, dir_fd=self._folder)
        except OSError:
            pass
        return None

    def put(self, key: str, value: bytes) -> None:
        """Store a program, after those that were used longest ago have made room for it."""
        temporary, chosen = f".{secrets.token_hex(8)}", jax.config.values["jax_compilation_cache_max_size"]
        room = (chosen if chosen >= 0 else LIMIT) - 32 - len(value)
        if room < 0:
            return
        try:
            self._shrink_to(room)
            with self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                file.write(_digest(key, value) + value)
            os.replace(temporary, _name(key), src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._folder)

    def _open(self, name: str, flags: int) -> IO[bytes]:
        descriptor = os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
        return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "wb")

    def _shrink_to(self, room: int) -> None:
        with os.scandir(self._folder) as entries:
            files = [(entry.stat(follow_symlinks=False), entry.name) for entry in entries if not entry.is_dir()]
        for about, name in sorted(files, key=lambda file: file[0].st_mtime_ns, reverse=True):
            room -= about.st_size
            if room < 0:
                os.unlink(name, dir_fd=self._folder)


def _private(folder: Path) -> int:
    """Open a folder that is this user's alone.

    Raises:
        OSError: for a folder of another user, or one that others may write.
    """
    if not hasattr(os, "geteuid"):
        raise OSError("this system has no owners and modes of folders")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    about = os.fstat(descriptor)
    others = "another user could write programs there, which would run as you. Remove it, or set JAXHEADS_CACHE"
    if about.st_uid != os.geteuid():
        wrong = f"{folder} belongs to another user: {others}"
    elif about.st_mode & 0o022:
        wrong = f"{folder} has mode {about.st_mode & 0o777:04o}, expected 0700: {others}"
    else:
        os.fchmod(descriptor, 0o700)
        return descriptor
    os.close(descriptor)
    raise OSError(wrong)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _digest(key: str, program: bytes) -> bytes:
    return hashlib.sha256(_name(key).encode() + program).digest()
