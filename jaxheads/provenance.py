"""Provenance of a result: the versions, the machine, the command and the commit that produced it.

Results are committed and published, so absolute paths are cut to their last component.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import jax

from .precision import arithmetic_used, precision_used
from .source_state import source_state, version

PACKAGES = ("jaxheads", "jax", "jaxlib", "flax", "numpy", "transformers")
NUMERIC_PACKAGES = ("jaxheads", "jax", "jaxlib", "flax", "numpy", "optax")
"""Packages whose version decides the numbers of a result."""

OF_THE_RUN = (
    *("versions", "python", "platform", "device"),
    *("arithmetic", "matmul_precision", "x64"),
    *("command", "git", "time_utc"),
)
"""Keys of `environment`: when, where and by what a result was computed, beside what was asked."""

_EDGE = r"""=:,;'"\[\](){}<>"""
_ROOT = r"(?:/(?!/)|[A-Za-z]:[\\/](?!/))"
_PATH = re.compile(rf"(?<![^\s{_EDGE}]){_ROOT}[^\s{_EDGE}]+")
_PATH_WITH_BLANKS = re.compile(rf"(?<![^{_EDGE}]){_ROOT}[^{_EDGE}]+")
_STARTS_WITH_PATH = re.compile(rf"(?:--?[\w-]+=)?{_ROOT}")


def environment() -> dict[str, Any]:
    """Describe everything but its inputs that a result depends on, as plain JSON values.

    Keys: `versions` (by package, None if not installed; read without importing), `python`, `platform`, `device`
    (`platform`, `kind`, `count`), `arithmetic` and `matmul_precision` (of products of float32), `x64`, `command`
    (list), `git` (`revision`, `dirty`, of the checkout, or of what a wheel was built from; None if neither is known)
    and `time_utc` (ISO 8601). The call starts JAX's backend.
    """
    devices = jax.devices()
    config: Any = jax.config  # its attributes are dynamic: a type checker can't see them
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "arithmetic": arithmetic_used(),
        "matmul_precision": precision_used(),
        "x64": bool(config.jax_enable_x64),
        "command": [without_directories(os.path.basename(sys.argv[0])), *map(without_directories, sys.argv[1:])],
        "git": code(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def made_by(command: str) -> str:
    """Return the last line of a page: the command that made it, in words that run, and the versions."""
    return f"Made by `{command}` with {', '.join(f'{name} {version(name)}' for name in PACKAGES)}."


def numerics() -> dict[str, Any]:
    """Return the versions and settings on which the last digits of every number depend, as plain JSON values."""
    config: Any = jax.config
    return {
        **{name: version(name) for name in NUMERIC_PACKAGES},
        "platform": jax.default_backend(),
        "x64": bool(config.jax_enable_x64),
        "arithmetic": arithmetic_used(),
        "matmul_precision": precision_used(),
        "prng": [config.jax_default_prng_impl, bool(config.jax_threefry_partitionable)],
    }


class Identified(Protocol):
    """The interface of a model that `provenance` reads."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Callable[[], str]: ...


def provenance(model: Identified, **about: Any) -> dict[str, Any]:
    """Combine the model's name and weights, facts about the computation (`about`), and the environment."""
    return {"model": model.name, "weights": model.identity(), **about, **environment()}


def without_directories(text: str) -> str:
    """Replace every absolute path in `text` by its last component: `--out=/home/me/a` gives `--out=a`.

    URLs and relative paths stay. If the text, or the value of an option `--name=…`, starts with a path, paths may
    contain blanks; otherwise a blank ends a path.
    """
    text = text.replace("file://", "")
    pattern = _PATH_WITH_BLANKS if _STARTS_WITH_PATH.match(text) else _PATH
    return pattern.sub(lambda match: _last_component(match[0]), text)


def code() -> dict[str, Any] | None:
    """Return the commit of jaxheads' code, as `source_state` does."""
    return source_state(Path(__file__).parent)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes (SHA-256, 64 hex digits) without reading it into memory at once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_component(path: str) -> str:
    pure = PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)
    return pure.name or path
