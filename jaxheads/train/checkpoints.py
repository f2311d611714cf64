"""Checkpoints on disk: trees of arrays by step, in a directory that one training holds and that records which it is."""

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..execution.identity import content_sha256, identity_of
from ..files import sweep, write_atomically
from ..provenance import environment, file_sha256, numerics

logger = logging.getLogger(__name__)

MANIFEST = "sha256.json"


def words_of(value: Any) -> str:
    """Return a name and a hash of a function, a task or a model: what `about.json` knows it by.

    Raises:
        TypeError: for something whose content can't be read and that has no `identity`.
    """
    name = getattr(value, "name", None) or getattr(value, "__qualname__", type(value).__qualname__)
    return f"{name} {identity_of(value)}"


@contextmanager
def claimed(directory: Path | None, about: Mapping[str, Any]) -> Iterator[None]:
    """Hold a directory for one training while the block runs; `about.json` in it says which. None holds nothing.

    Raises:
        ValueError: for a directory of another training; the message names what differs.
        RuntimeError: for a directory that another process holds; the message names it.
        OSError: for a directory that can't be written.
    """
    if directory is None or jax.process_index() > 0:
        yield
        return
    with _locked(directory):
        _remove_leftovers(directory)
        _check(directory / "about.json", json.loads(json.dumps({**about, "settings": numerics()})))
        yield


def steps_in(directory: Path) -> list[int]:
    """Return the steps of the finished checkpoints in a directory, sorted."""
    return sorted(int(path.parent.name) for path in directory.glob(f"*/{MANIFEST}") if path.parent.name.isdecimal())


def save(path: Path, tree: Any) -> None:
    """Write a tree of arrays with hashes of its files; after a crash the checkpoint is complete or none."""
    import orbax.checkpoint as ocp

    # orbax writes under a temporary name and renames; the hashes come last, and make the checkpoint one.
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, _numbered(tree), force=True)
    write_atomically(path / MANIFEST, json.dumps({"step": path.name, "files": _hashes(path)}).encode())


def restore(path: Path, like: Any) -> Any | None:
    """Read a saved tree back, bit for bit, in the structure of `like`; None if its files have changed since."""
    import orbax.checkpoint as ocp

    # Checked before orbax reads them: of damaged files it may believe the numbers, or fail in a thread of its own.
    try:
        whole = json.loads((path / MANIFEST).read_bytes()) == {"step": path.name, "files": _hashes(path)}
    except (OSError, ValueError):
        whole = False
    if not whole:
        return None
    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _numbered(like))
        stored = checkpointer.restore(path, restore_args=arguments)
    leaves = [stored[f"{number:05d}"] for number in range(len(stored))]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])


def set_aside(directory: Path, names: Iterable[str]) -> None:
    """Move files or folders of a directory that are damaged into a folder beside them: nothing is deleted for good."""
    number = 1 + len(list(directory.glob("damaged-*")))
    aside = directory / f"damaged-{number}"
    aside.mkdir()
    for name in names:
        if (directory / name).exists():
            os.replace(directory / name, aside / name)
    logger.warning("damaged checkpoints of %s are in %s now; their steps are done again", directory, aside)


def save_rows(path: Path, frame: pd.DataFrame) -> None:
    """Write a table of numbers with a hash of them."""
    hashed = frame.copy(deep=False)
    hashed.attrs["sha256"] = _hash_of_rows(path, frame)
    write_atomically(path, lambda file: hashed.to_parquet(file, index=False))


def restore_rows(path: Path) -> pd.DataFrame | None:
    """Read a table back; None if its numbers are not as they were written."""
    try:
        frame = pd.read_parquet(path)
        own_hash = frame.attrs.pop("sha256")
    except Exception:  # a damaged file fails in any layer of the reader, in whatever way
        return None
    return frame if own_hash == _hash_of_rows(path, frame) else None


def _numbered(tree: Any) -> dict[str, Any]:
    """Return a tree's leaves under numbers: a module's own names may hold characters that no file name can."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}


def _hashes(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)
    return {str(file.relative_to(path)): file_sha256(file) for file in files}


def _hash_of_rows(path: Path, frame: pd.DataFrame) -> str:
    # With the file's name, its first step: rows of one step count for no other.
    return content_sha256("/".join((path.name, *frame.columns)), *(frame[name].to_numpy() for name in frame))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    holder = directory / "in_use.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(
            f"another training holds {directory} ({_told(holder)}): wait for its end, or choose another directory"
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"can't write {directory}: {error.strerror}. Choose another directory") from error
    try:
        own = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        write_atomically(holder, json.dumps(own).encode())
        yield
    finally:
        with suppress(OSError):  # an error of the training comes first
            holder.unlink()
        lock.release()


def _told(holder: Path) -> str:
    try:
        return ", ".join(f"{name} {value}" for name, value in json.loads(holder.read_text()).items())
    except (OSError, ValueError, AttributeError):
        return "by a process that has just started"


def _remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left: nobody else writes into a directory that is held."""
    for path in directory.rglob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sweep(folder)


def _check(path: Path, wanted: Mapping[str, Any]) -> None:
    """Write which training a directory belongs to, or compare it with what is there."""
    if not path.exists():
        content = {**wanted, "environment": environment()}
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
        return
    try:
        stored = dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, so nothing says which training its directory belongs to: choose another directory, or "
            "remove this one"
        ) from error
    stored.pop("environment", None)
    differs = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
    if "settings" in differs:
        old, new = stored.get("settings") or {}, wanted["settings"]
        changed = [f"{key} was {old.get(key)}, is {new[key]}" for key in new if old.get(key) != new[key]]
        differs[differs.index("settings")] = f"settings ({'; '.join(changed)})"
    if differs:
        raise ValueError(f"{path.parent} holds another training ({', '.join(differs)} differ): choose another")
