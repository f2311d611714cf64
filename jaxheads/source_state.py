"""The version and the commit of this code; the commit is asked of git in a checkout, read from a file in a wheel.

Only the standard library is imported: the hook that builds wheels uses this file alone.
"""

import json
import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

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
    results don't count.

    Returns:
        `{"revision": 40 hex digits, "dirty": bool}`, or None outside a repository, before its first commit, without
        git, or if the repository tracks no file of the directory (a package installed in another project's tree).
    """
    revision = _git(directory, "rev-parse", "HEAD")
    if not revision or not _git(directory, "ls-files", "--", "."):
        return None
    changes = _git(directory, "status", "--porcelain", "-uall", "--", ":/*.py", ":/pyproject.toml")
    return {"revision": revision, "dirty": changes != ""}


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
