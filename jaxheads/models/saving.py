"""Writing models: as a Hugging Face directory, which `transformers` loads too, or as an orbax checkpoint."""

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
import orbax.checkpoint as ocp
from flax import nnx
from safetensors.flax import save_file

from .families import FAMILIES
from .loading.orbax_directory import WEIGHTS
from .loading.weights import export
from .model import Model


def to_hf(model: Model, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write config.json, model.safetensors, and the files of tokenizer and images; `transformers` and `jh.load` read
    them.

    The tensors have the checkpoint's names and the model's dtype, bit for bit.

    Args:
        overwrite: replace what is in the directory.

    Raises:
        FileExistsError: for a directory that is not empty, unless `overwrite`.
        ValueError: for a model that no config belongs to (one that was put together by hand).
        OSError: where it can't be written. Whatever was there before is then untouched.
    """
    tensors = _tensors(model)

    def write(place: Path) -> None:
        save_file({name: jnp.asarray(value) for name, value in tensors.items()}, place / "model.safetensors", _PT)

    return _write(model, directory, write, overwrite)


def to_orbax(model: Model, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write the weights as an orbax checkpoint, beside config.json and the tokenizer's files; `jh.load` reads it.

    Arguments and errors as in `to_hf`.
    """
    tensors = _tensors(model)

    def write(place: Path) -> None:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(place.resolve() / WEIGHTS, tensors)

    return _write(model, directory, write, overwrite)


_PT = {"format": "pt"}
"""What transformers asks of a safetensors file."""


def _tensors(model: Model) -> dict[str, np.ndarray]:
    kind = (model.hf_config or {}).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{model.name} has no Hugging Face config to write: make models from one, with jh.init")
    family: Any = FAMILIES[kind]
    return export(model.network, family.table(model.config))


def _write(model: Model, directory: str | os.PathLike, write: Callable[[Path], None], overwrite: bool) -> Path:
    """Into a new directory beside the one that is wanted, which it then replaces."""
    final = Path(directory).expanduser()
    if final.exists() and not overwrite and (final.is_file() or any(final.iterdir())):
        raise FileExistsError(f"{final} is not empty: choose another directory, or overwrite=True")
    final.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        os.chmod(place, 0o777 & ~_umask())
        config = {**(model.hf_config or {}), "dtype": _dtype(model)}
        config.pop("torch_dtype", None)
        (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if model.preprocessor is not None:
            settings = json.dumps(model.preprocessor, indent=2)
            (place / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")
        write(place)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(place)
        if final.exists():
            old = place.with_name(f"{place.name}.old")
            os.replace(final, old)
            os.replace(place, final)
            shutil.rmtree(old)
        else:
            os.replace(place, final)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return final


def _dtype(model: Model) -> str:
    """Of the parameters: they share one."""
    return str(jax.tree.leaves(nnx.state(model.network, nnx.Param))[0].dtype)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
