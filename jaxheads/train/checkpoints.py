"""Checkpoints on disk: trees of arrays by step, in a directory that records which training they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..files import write_atomically
from ..provenance import environment


def claim(directory: Path, about: Mapping[str, Any]) -> None:
    """Record in `about.json` which training the directory belongs to.

    Raises:
        ValueError: for a directory of another training; the message names what differs.
    """
    path, wanted = directory / "about.json", json.loads(json.dumps(about))
    if not path.exists():
        write_atomically(path, (json.dumps({**wanted, "environment": environment()}, indent=2) + "\n").encode())
        return
    stored = {key: value for key, value in json.loads(path.read_text()).items() if key != "environment"}
    if stored != wanted:
        differs = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
        raise ValueError(f"{directory} holds another training ({', '.join(differs)} differ): choose another")


def steps_in(directory: Path) -> list[int]:
    """Return the steps of the finished checkpoints in a directory, sorted."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


def save(path: Path, tree: Any) -> None:
    """Write a tree of arrays; after a crash the checkpoint is complete or absent."""
    import orbax.checkpoint as ocp

    # orbax writes under a temporary name and renames.
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, _numbered(tree), force=True)


def restore(path: Path, like: Any) -> Any:
    """Read a saved tree back, bit for bit, in the structure of `like`."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _numbered(like))
        stored = checkpointer.restore(path, restore_args=arguments)
    leaves = [stored[f"{number:05d}"] for number in range(len(stored))]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])


def _numbered(tree: Any) -> dict[str, Any]:
    """Return a tree's leaves under numbers: a module's own names may hold characters that no file name can."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}
