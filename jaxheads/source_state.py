"""The version and the commit of this code; the commit is asked of git in a checkout, read from a file in a wheel.

Only the standard library is imported: the hook that builds wheels uses this file alone.
"""

import json
import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

BUILT_FROM = "built_from.json"
"""File in the package's folder of a wheel or sdist, with what `git_state` said where it was built."""


def source_state(directory: Path) -> dict[str, Any] | None:
    """Return the commit of the code in a directory, as `git_state` does; in a wheel or sdist the one it was built from.

    None where neither is known.
    """
    try:
        return json.loads((directory / BUILT_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return git_state(directory)


def git_state(directory: Path) -> dict[str, Any] | None:
    """Return the commit that `directory` belongs to, and whether the code has changed since.

    Dirty means that a Python file or pyproject.toml anywhere in the tree differs from the commit or is new; rewritten
    results don't count. Git is asked again only when a file or folder that its answer depends on has changed.

    Returns:
        `{"revision": 40 hex digits, "dirty": bool}`, or None outside a repository, before its first commit, without
        git, or if the repository tracks no file of the directory (a package installed in another project's tree).
    """
    known = _KNOWN.get(directory)
    if known is None or _stamps(known.watched) != known.stamps:
        watched = _watched(directory)
        # Stamped before git is asked: what changes in the meantime is seen by the next call.
        stamps = _stamps(watched)
        known = _KNOWN[directory] = _Known(watched, stamps, _asked(directory))
    return None if known.state is None else dict(known.state)


class _Known(NamedTuple):
    """What git has said of a directory, and the files and folders whose stamps were these at that time."""

    watched: tuple[str, ...]
    stamps: tuple[Any, ...]
    state: dict[str, Any] | None


_KNOWN: dict[Path, _Known] = {}


def _asked(directory: Path) -> dict[str, Any] | None:
    """Return the state of a directory, asked of git, in some 60 ms."""
    revision = _git(directory, "rev-parse", "HEAD")
    if not revision or not _git(directory, "ls-files", "--", "."):
        return None
    changes = _git(directory, "status", "--porcelain", "-uall", "--", ":/*.py", ":/pyproject.toml")
    return {"revision": revision, "dirty": changes != ""}


def _watched(directory: Path) -> tuple[str, ...]:
    """Return the files and folders that decide the state of a directory.

    They are the code, tracked or new; the folders in which new code could appear; the files that say what is ignored;
    and, of git's own files, the index and those that name the commit.
    """
    watched = {str(parent / ".git") for parent in (directory, *directory.parents)}
    places = _git(directory, "rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
    if places:
        top, own, common = (Path(directory, place) for place in places.split("\n"))
        branch = _git(directory, "rev-parse", "--symbolic-full-name", "HEAD") or "HEAD"
        watched |= {str(own / "HEAD"), str(own / "index"), str(common / branch), str(common / "packed-refs")}
        watched.add(str(common / "info" / "exclude"))
        names = _git(top, "-c", "core.quotePath=off", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in (names or "").split("\0"):
            folder, _, file = name.rpartition("/")
            watched.update(str(top / parent) for parent in (folder, *PurePosixPath(folder).parents))
            if file.endswith(".py") or file in ("pyproject.toml", ".gitignore"):
                watched.add(str(top / name))
    return tuple(watched)


def _stamps(paths: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what changes of each file or folder with its content; None for one that is not there."""
    stamps: list[Any] = []
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino))
    return tuple(stamps)


@cache
def version(package: str) -> str | None:
    """Return the version of an installed package, read without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(directory: Path, *arguments: str) -> str | None:
    # A git hook sets GIT_DIR and the like, which would point at another repository.
    settings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        completed = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()
