"""Where a result came from: the versions, the machine, the command and the commit that made it.

Results are committed and published, so nothing here tells where on somebody's disk things lie: of an
absolute path only the last component is kept.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import jax

PACKAGES = ("jaxheads", "jax", "jaxlib", "flax", "numpy", "transformers")

_EDGE = r"""=:,;'"\[\](){}<>"""
_ROOT = r"(?:/(?!/)|[A-Za-z]:[\\/](?!/))"
_PLACE = re.compile(rf"(?<![^\s{_EDGE}]){_ROOT}[^\s{_EDGE}]+")
_PLACE_WITH_BLANKS = re.compile(rf"(?<![^{_EDGE}]){_ROOT}[^{_EDGE}]+")
_STARTS_WITH_PLACE = re.compile(rf"(?:--?[\w-]+=)?{_ROOT}")


def environment() -> dict[str, Any]:
    """Say what a result depends on beside its inputs, as plain JSON values.

    Keys: `versions` (package: version, None where not installed; read without importing), `python`,
    `platform`, `device` (`platform`, `kind`, `count`), `matmul_precision` (None: JAX's default), `x64`,
    `command` (list), `git` (`revision`, `dirty`; None where jaxheads doesn't run from a commit) and
    `time_utc` (ISO 8601). Asking for the device starts JAX's backend.
    """
    devices = jax.devices()
    config: Any = jax.config  # its attributes are made as it runs
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "matmul_precision": config.jax_default_matmul_precision,
        "x64": bool(config.jax_enable_x64),
        "command": [without_places(os.path.basename(sys.argv[0])), *map(without_places, sys.argv[1:])],
        "git": git_state(Path(__file__).parent),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Identified(Protocol):
    """What provenance needs of a model."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Callable[[], str]: ...


def provenance(model: Identified, **about: Any) -> dict[str, Any]:
    """Say which model an answer is about, what was asked (`about`), and in which environment it was computed."""
    return {"model": model.name, "weights": model.identity(), **about, **environment()}


def without_places(text: str) -> str:
    """Replace every absolute path in `text` by its last component: `--out=/home/me/a` gives `--out=a`.

    URLs and relative paths stay. In text that starts with a path, after an option's `--name=` if there is
    one, paths may have blanks in them; elsewhere a blank ends a path.
    """
    text = text.replace("file://", "")
    place = _PLACE_WITH_BLANKS if _STARTS_WITH_PLACE.match(text) else _PLACE
    return place.sub(lambda match: _last_component(match[0]), text)


def git_state(directory: Path) -> dict[str, Any] | None:
    """Name the commit that `directory` is part of, and whether the code has changed since.

    Returns `{"revision": 40 hex digits, "dirty": bool}`, or None outside a repository, before its first
    commit, without git, or where the directory holds no file of the repository (an installed package in
    some other project's tree). Dirty means a Python file or pyproject.toml anywhere in the tree differs
    from the commit or is new; rewritten results don't count.
    """
    revision = _git(directory, "rev-parse", "HEAD")
    if not revision or not _git(directory, "ls-files", "--", "."):
        return None
    changes = _git(directory, "status", "--porcelain", "-uall", "--", ":/*.py", ":/pyproject.toml")
    return {"revision": revision, "dirty": changes != ""}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes (SHA-256, 64 hex digits), reading it in pieces: checkpoints are large."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _last_component(path: str) -> str:
    pure = PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)
    return pure.name or path


def _git(directory: Path, *arguments: str) -> str | None:
    # GIT_DIR and its kin, set while a hook runs, would point at another repository
    settings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
