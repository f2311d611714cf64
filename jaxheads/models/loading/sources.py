"""Sources that a user may name: a zoo name, a local path or a hub id, each opened as a checkpoint."""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...provenance import without_directories
from .adapters import CONFIG, Adapter, is_adapter, open_adapter, with_adapter
from .checkpoint import Checkpoint
from .containers import file_size, is_present
from .ctranslate2_file import ctranslate2_checkpoint, is_ctranslate2_directory
from .fetch import fetch
from .gguf_file import gguf_checkpoint
from .glassllm import glassllm_checkpoint
from .hf_directory import directory_checkpoint
from .hub import NotOnTheHub, hub_adapter, hub_checkpoint
from .onnx_file import onnx_checkpoint
from .onnx_tagger import tagger_checkpoint
from .orbax_directory import is_orbax_directory, orbax_checkpoint
from .quantised import dequantised
from .transformer_lens import SUFFIXES, as_toy, lens_checkpoint, lens_file
from .zoo import ZOO

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
OLD_HUB_ID = re.compile(r"\w[\w.-]+", re.ASCII)
"""An id without an owner ("gpt2"), as the first models of the hub have it."""

_FILES = (".gguf", ".safetensors", ".bin", ".json", ".onnx", ".pt", ".pth", ".h5", ".npz")
"""Ends of names of files, which are no ids."""


def open_checkpoint(source: str | os.PathLike[str], *, revision: str | None = None) -> Checkpoint:
    """Open a zoo name, else an existing local path, else a hub id "owner/name" or "name" (at `revision`).

    A local path is a directory in the layout of Hugging Face, CTranslate2 or `to_orbax`, a .gguf file, or a .pth file
    of TransformerLens. To reach a directory that is called like a zoo model, write "./name".

    Raises:
        FileNotFoundError: for a source that isn't there.
        ValueError: for a name of none of these kinds, or a file that can't be read.
        OSError: where a file can't be fetched or written.
    """
    name = os.fspath(source)
    if revision is not None and (name in ZOO or Path(name).exists()):
        raise ValueError(f"revision={revision!r} is for hub ids; {name!r} is a zoo model or a local path")
    if not name:
        raise _unknown(name)  # as a path it would be the current directory
    if isinstance(source, str) and name in ZOO:
        return _zoo_checkpoint(name)
    if "\0" in name:
        raise _unknown(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return open_directory(path, name=name)
    if is_present(path):
        file_size(path)  # no pipe, no device, no circle of links
        return _file_checkpoint(path, name)
    if isinstance(source, str) and path.suffix not in _FILES:
        if HUB_ID.fullmatch(name):
            return hub_checkpoint(name, revision=revision, opened=open_directory)
        if OLD_HUB_ID.fullmatch(name):
            return _without_owner(name, revision)
    raise _unknown(name)


def _without_owner(name: str, revision: str | None) -> Checkpoint:
    """Open an old id of the hub; what the hub does not have may be a zoo name misspelled."""
    try:
        return hub_checkpoint(name, revision=revision, opened=open_directory)
    except NotOnTheHub as error:
        raise _unknown(name, str(error).partition(": ")[2]) from error


def open_directory(directory: Path, *, name: str, identity: Callable[[], str] | None = None) -> Checkpoint:
    """Open a directory in any layout; an adapter's is its base with the adapter merged."""
    if is_orbax_directory(directory):
        return orbax_checkpoint(directory, name=name)
    if is_ctranslate2_directory(directory):
        return ctranslate2_checkpoint(directory, name=name)
    if is_adapter(directory):
        adapter = open_adapter(directory)
        return with_adapter(_base(adapter), adapter, name=name)
    if (file := lens_file(directory)) is not None:
        checkpoint = lens_checkpoint(file, name=name)
        return checkpoint if identity is None else replace(checkpoint, identity=identity)
    return as_toy(dequantised(directory_checkpoint(directory, name=name, identity=identity), directory))


def _base(adapter: Adapter) -> Checkpoint:
    """Open the model that an adapter names as its base."""
    try:
        return open_checkpoint(adapter.base, revision=adapter.config.get("revision"))
    except (OSError, ValueError) as error:
        raise type(error)(
            f"{adapter.directory} is an adapter of {adapter.base!r}, which can't be opened: {error} To name another "
            "place of its base: jh.load(base, adapter=…)"
        ) from error


def merge_adapter(base: Checkpoint, adapter: str | os.PathLike[str]) -> Checkpoint:
    """Return a checkpoint with an adapter merged: a local directory, or a hub id."""
    source = os.fspath(adapter)
    directory = Path(source).expanduser()
    if not directory.is_dir():
        if not HUB_ID.fullmatch(source):
            raise FileNotFoundError(f"no adapter {source!r}: expected a directory with {CONFIG}, or a hub id")
        directory = hub_adapter(source)
    names = map(without_directories, (base.name, source))
    return with_adapter(base, open_adapter(directory), name=" with ".join(names))


def _zoo_checkpoint(name: str) -> Checkpoint:
    entry, directory = ZOO[name], fetch(name)
    files = [directory / Path(member).name for member in entry.files]
    if entry.container == "gguf":
        return gguf_checkpoint(files[0], name=name)
    if entry.container == "onnx":
        return onnx_checkpoint(files[0], name=name)
    if entry.container == "onnx_tagger":
        return tagger_checkpoint(*files, name=name)
    if entry.container == "glassllm":
        return glassllm_checkpoint(*files, name=name)
    if entry.container == "ctranslate2":
        return ctranslate2_checkpoint(directory, name=name)
    return directory_checkpoint(directory, name=name)


def _file_checkpoint(path: Path, name: str) -> Checkpoint:
    if path.suffix == ".gguf":
        return gguf_checkpoint(path, name=name)
    if path.suffix in SUFFIXES:
        return lens_checkpoint(path, name=name)
    if path.suffix in (".safetensors", ".bin", ".json"):
        raise ValueError(f"{name!r} is one file of a model: name its directory, {str(path.parent)!r}")
    raise ValueError(
        f"{name!r} is a file of an unknown kind: expected a directory, a .gguf file, or a .pth file of TransformerLens"
    )


def _unknown(name: str, refusal: str = "") -> Exception:
    """Return the error for a name that is no source, with the zoo names that resemble it and the hub's refusal."""
    near = difflib.get_close_matches(name.lower(), ZOO, n=3, cutoff=0.8)
    looks_local = name.startswith((".", "/", "~")) or name.endswith(".gguf")
    message = (
        f"no model {name!r}{': no such file or directory' if looks_local else ''}. "
        f"{'Did you mean ' + ' or '.join(map(repr, near)) + '? ' if near else ''}"
        f"A source is a zoo name ({', '.join(ZOO)}), an existing directory with config.json and weights, a "
        '.gguf file, or a hub id, usually with its owner ("openai-community/gpt2").'
        f"{f' As a hub id: {refusal}' if refusal else ''}"
    )
    return FileNotFoundError(message) if looks_local else ValueError(message)
