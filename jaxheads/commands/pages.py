"""The command `jaxheads page`, and the last step of `jaxheads atlas`: one HTML file of all heads."""

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..checks import seed as check_seed
from ..execution.resources import Options
from ..files import check_writable
from ..models.load import load
from ..models.model import Model
from ..provenance import environment
from ..report.heads_page import FILE, save_page
from ..report.portrait import AtlasTables, Portrait, portrait, read_atlas, write_headvis
from .options import Page


def make_page(options: Page, make_atlas: Callable[[str, Path], None]) -> Path:
    """Make the page of a model, or of two, and return its path.

    Args:
        make_atlas: makes a missing atlas of a model, by its name, in a folder.

    Raises:
        ValueError: for options that can't be meant, or an atlas of other weights than the model's.
        OSError: for files that can't be read or written.
    """
    _check(options)
    names = [options.model, *([] if options.beside is None else [options.beside])]
    folders = [options.atlas or _folder(options.model), *map(_folder, names[1:])]
    path = options.out or folders[0]
    path = path if path.suffix in (".html", ".htm") else path / FILE
    check_writable(path.parent)
    portraits = []
    for name, folder in zip(names, folders, strict=True):
        if not _stacks_in(folder):
            make_atlas(name, folder)
        model = load(name)
        tables = [read_atlas(own) for own in _stacks_in(folder)]
        portraits += _portraits(model, tables, options, folder, options.checkpoints if name == options.model else None)
    if options.headvis is not None:
        _save_headvis(portraits, options)
    return save_page(portraits, path, _command())


def page_of_atlas(model: Model, made: Sequence[Any], options: Any, out: Path) -> Path:
    """Write the page of atlases that were just made, of all stacks of one model, and return its path."""
    tables = [AtlasTables.of(atlas) for atlas in made]
    return save_page(_portraits(model, tables, options, out, None), out / FILE, _command())


def _portraits(
    model: Model, tables: Sequence[AtlasTables], options: Any, folder: Path, checkpoints: Path | None
) -> list[Portrait]:
    devices = Mesh(np.array(jax.devices()), ("data",)) if 1 < jax.device_count() == jax.local_device_count() else None
    unfinished = folder / ".unfinished"
    shared = Options(seed=options.seed, progress=True, resume=unfinished, devices=devices)
    inputs = {name: getattr(options, name) for name in ("text", "images", "audio")}
    made = [portrait(model, own, checkpoints=checkpoints, **inputs, **shared) for own in tables]
    shutil.rmtree(unfinished, ignore_errors=True)
    return made


def _save_headvis(portraits: Sequence[Portrait], options: Page) -> None:
    """Write each stack that reads texts, into folders of their own where there are several."""
    readable = [own for own in portraits if own.samples is not None and own.model == portraits[0].model]
    if not readable:
        raise ValueError(f"--headvis: HeadVis shows heads on texts, and no stack of {options.model} reads only texts")
    assert options.headvis is not None, "the caller checks"
    for own in readable:
        folder = options.headvis / own.stack if len(readable) > 1 else options.headvis
        print(f"{len(write_headvis(own, folder))} files in {folder}")


def _folder(model: str) -> Path:
    return Path(f"atlas-{Path(model).name.removesuffix('.gguf')}")


def _stacks_in(folder: Path) -> list[Path]:
    """Return the folders of atlases: the folder itself, or one for each stack."""
    if (folder / "atlas.parquet").exists():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/atlas.parquet"))


def _command() -> str:
    """Return the command that is running, as it would be repeated."""
    program, *words = environment()["command"]
    return shlex.join(["jaxheads", *words]) if program in ("jaxheads", "__main__.py") else ""


def _check(options: Page) -> None:
    """Raise ValueError, with the flag's name, for what would be refused after the model was fetched."""
    check_seed("--seed", options.seed)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{field.name} must be a zoo name, a hub id, a directory or a .gguf file, got ''")
    for flag in ("images", "audio", "checkpoints"):
        folder = getattr(options, flag)
        if folder is not None and not folder.expanduser().is_dir():
            raise ValueError(f"--{flag} must be a folder; {folder} is none")
    if options.text is not None and not options.text.expanduser().is_file():
        raise ValueError(f"--text must be a UTF-8 file, passages apart by blank lines; {options.text} is none")
