"""Saving models: as a Hugging Face directory, which `transformers` loads too, or as an orbax checkpoint."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.flax import save_file

from ..arguments import checked
from ..files import disk_is_full, restore_swapped, swap, temporary_directory, unwritable
from ..interrupts import uninterrupted
from .families import FAMILIES
from .loading.orbax_directory import WEIGHTS
from .loading.weights import export
from .model import Model
from .overwriting import keep_others, refuse_strange_parts, replaces_nothing, write_manifest
from .removed_heads import HEADS


@checked()
def to_hf(model: Model, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a Hugging Face directory, which `transformers` and `jh.load` read.

    It holds config.json, model.safetensors, and the files of the tokenizer and the image processor. Tensors have the
    checkpoint's names and the model's dtype, bit for bit.

    A directory beside files of your own: those stay, and so does the target of a symbolic link. `.jaxheads.json` lists
    what was written.

    Args:
        overwrite: replace an earlier model in the directory. The files that this call writes replace those of their
            names, and files of an earlier call go unless they were changed since. A kill leaves the old model or the
            new one. If `directory` is a link, the directory that it names is written.

    Raises:
        FileExistsError: for a directory that is not empty, unless `overwrite`; and for one with files that no call
            wrote, but that would be read as parts of the model.
        ValueError: for a model without a Hugging Face config (one that was built by hand), and in `to_hf` for one from
            which heads were removed.
        OSError: if writing fails. The directory is then as it was before.
    """
    if HEADS in (model.hf_config or {}):
        raise ValueError(f"heads were removed from {model.name}, which transformers can't load: write it with to_orbax")
    tensors = _tensors(model)

    def write(folder: Path) -> None:
        save_file({name: jnp.asarray(value) for name, value in tensors.items()}, folder / "model.safetensors", _PT)

    return _write(model, directory, write, overwrite)


@checked()
def to_orbax(model: Model, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write the weights as an orbax checkpoint, beside config.json and the tokenizer's files; `jh.load` reads it.

    Arguments and errors are those of `to_hf`.
    """
    import orbax.checkpoint as ocp  # slow to import

    tensors = _tensors(model)

    def write(folder: Path) -> None:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(folder.resolve() / WEIGHTS, tensors)

    return _write(model, directory, write, overwrite)


_PT = {"format": "pt"}
"""Metadata that transformers requires of a safetensors file."""


def _tensors(model: Model) -> dict[str, np.ndarray]:
    kind = (model.hf_config or {}).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{model.name} has no Hugging Face config to write: make models from one, with jh.init")
    family: Any = FAMILIES[kind]
    return export(model.network, family.table(model.config))


def _write(model: Model, directory: str | os.PathLike, write: Callable[[Path], None], overwrite: bool) -> Path:
    """Write into a new folder beside the directory, then exchange the two: a failure leaves the directory as it was."""
    final = Path(os.path.realpath(Path(directory).expanduser()))
    try:
        restore_swapped(final)
        if final.exists() and not final.is_dir():
            raise FileExistsError(f"{final} is a file: choose a directory")
        if final.is_dir() and any(final.iterdir()) and not overwrite:
            raise FileExistsError(f"{final} is not empty: choose another directory, or overwrite=True")
        if final.is_mount():
            raise FileExistsError(f"{final} is a disk of its own: choose a directory on it")
        with temporary_directory(final.parent) as folder:
            _fill(model, folder, write)
            _move(folder, final)
    except Exception as error:  # safetensors, orbax and tokenizers raise whatever a full disk ends them in
        refused = isinstance(error, FileExistsError) and error.errno is None  # by the lines above
        if refused or not (isinstance(error, OSError) or disk_is_full(error)):
            raise
        raise unwritable(final, error) from error
    return Path(directory).expanduser()


def _fill(model: Model, folder: Path, write: Callable[[Path], None]) -> None:
    """Write all files of a model into an empty folder."""
    config = {**(model.hf_config or {}), "dtype": _dtype(model)}
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if model.preprocessor is not None:
        settings = json.dumps(model.preprocessor, indent=2)
        (folder / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")
    write(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    write_manifest(folder)


def _move(folder: Path, final: Path) -> None:
    """Put the written folder in the directory's place."""
    if not final.exists() or not any(final.iterdir()):
        if final.exists():
            shutil.copymode(final, folder)
        os.rename(folder, final)
        return
    refuse_strange_parts(final, folder)
    if replaces_nothing(final, folder):
        # Without config.json, which comes last, nothing takes the files for a model.
        with uninterrupted():
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
                os.rename(path, final / path.name)
        return
    here = Path.cwd()
    keep_others(final, folder)
    swap(folder, final)
    if here.is_relative_to(final):
        os.chdir(here)  # else this process would stand in the directory that is about to go


def _dtype(model: Model) -> str:
    """Return the dtype that all parameters share."""
    return str(jax.tree.leaves(nnx.state(model.network, nnx.Param))[0].dtype)
