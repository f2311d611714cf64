"""Checkpoints on disk: trees of arrays by step, whole or not at all, in a directory that says what it is of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..files import write_atomically
from ..provenance import environment


def claim(directory: Path, about: Mapping[str, Any]) -> None:
    """Say what the directory is of.

    Raises:
        ValueError: where it is of something else.
    """
    path, wanted = directory / "about.json", json.loads(json.dumps(about))
    if not path.exists():
        write_atomically(path, (json.dumps({**wanted, "environment": environment()}, indent=2) + "\n").encode())
        return
    found = {key: value for key, value in json.loads(path.read_text()).items() if key != "environment"}
    if found != wanted:
        differs = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        raise ValueError(f"{directory} holds another training ({', '.join(differs)} differ): choose another")


def steps_in(directory: Path) -> list[int]:
    """The finished checkpoints in a directory, in order."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


def save(path: Path, tree: Any) -> None:
    """Whole or not at all: orbax writes under another name and renames."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, _plain(tree), force=True)


def restore(path: Path, like: Any) -> Any:
    """A tree as it was saved, in the structure of `like`, bit for bit."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _plain(like))
        found = checkpointer.restore(path, restore_args=arguments)
    leaves = [found[f"{number:05d}"] for number in range(len(found))]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])


def _plain(tree: Any) -> dict[str, Any]:
    """The leaves by number: names of modules may hold anything."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}
