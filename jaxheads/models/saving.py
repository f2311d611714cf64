"""Saving models: as a Hugging Face directory, which `transformers` loads too, or as an orbax checkpoint."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.flax import save_file

from .families import FAMILIES
from .loading.orbax_directory import WEIGHTS
from .loading.weights import export
from .model import Model
from .removed_heads import HEADS


def to_hf(model: Model, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a Hugging Face directory, which `transformers` and `jh.load` read.

    It holds config.json, model.safetensors, and the files of the tokenizer and the image processor. Tensors have the
    checkpoint's names and the model's dtype, bit for bit.

    Args:
        overwrite: replace the directory's contents.

    Raises:
        FileExistsError: for a directory that is not empty, unless `overwrite`.
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
    """Write into a new folder beside the directory, then rename: a failure leaves the directory as it was."""
    final = Path(directory).expanduser()
    if final.exists() and not overwrite and (final.is_file() or any(final.iterdir())):
        raise FileExistsError(f"{final} is not empty: choose another directory, or overwrite=True")
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        os.chmod(folder, 0o777 & ~_umask())
        config = {**(model.hf_config or {}), "dtype": _dtype(model)}
        config.pop("torch_dtype", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if model.preprocessor is not None:
            settings = json.dumps(model.preprocessor, indent=2)
            (folder / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")
        write(folder)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(folder)
        if final.exists():
            old = folder.with_name(f"{folder.name}.old")
            os.replace(final, old)
            os.replace(folder, final)
            shutil.rmtree(old)
        else:
            os.replace(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return final


def _dtype(model: Model) -> str:
    """Return the dtype that all parameters share."""
    return str(jax.tree.leaves(nnx.state(model.network, nnx.Param))[0].dtype)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
