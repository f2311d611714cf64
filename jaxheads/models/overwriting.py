"""Directories of models that are overwritten: which of their files an earlier call wrote, and which are a user's."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from ..provenance import file_sha256
from .loading.hf_tokenizer import VOCABULARIES
from .loading.orbax_directory import WEIGHTS
from .loading.weight_files import CONTAINERS

MANIFEST = ".jaxheads.json"
"""Name of the file that lists the files of a model with their hashes."""

PARTS = (
    *(pattern for name in CONTAINERS for pattern in (name, f"{name}.index.json")),
    *VOCABULARIES,
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Patterns of files that a loader would read as parts of the model."""


def write_manifest(folder: Path) -> None:
    """List the files of a folder in its manifest, and force them to the disk."""
    hashes = {}
    for path in _files(folder):
        with open(folder / path, "rb") as file:
            os.fsync(file.fileno())
        hashes[path.as_posix()] = file_sha256(folder / path)
    text = json.dumps({"written by": "jaxheads", "sha256": hashes}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def replaces_nothing(old: Path, new: Path) -> bool:
    """Whether the old folder holds none of the new one's files, and nothing that an earlier call wrote."""
    return not any(os.path.lexists(old / path.name) for path in new.iterdir())


def refuse_strange_parts(old: Path, new: Path) -> None:
    """Refuse a folder to be overwritten whose own files would be read as parts of the new model, or are in its way.

    Raises:
        FileExistsError: for such files.
    """
    ours = _manifest(old)
    weights = [PurePath(WEIGHTS, path) for path in _files(old / WEIGHTS)]
    parts = [PurePath(path.name) for path in old.iterdir() if _is_part(path.name, new)]
    wrong = [path for path in (*parts, *weights) if not os.path.lexists(new / path) and not _written(old, path, ours)]
    wrong += [PurePath(path.name) for path in new.iterdir() if _kind(old / path.name) not in ("", _kind(path))]
    if wrong:
        raise FileExistsError(
            f"{old} holds {', '.join(map(str, wrong[:5]))}{' and more' if len(wrong) > 5 else ''}, which no call of "
            "jaxheads wrote and which would be taken for part of the model: move them, or choose another directory"
        )


def keep_others(old: Path, new: Path) -> None:
    """Put a second name (a hard link) of each of a user's files into the new folder, which is to replace the old.

    A user's is what the new folder lacks and the old manifest does not list, or lists with another hash.
    """
    ours = _manifest(old)
    kept = [path for path in _files(old) if not os.path.lexists(new / path) and not _written(old, path, ours)]
    for path in kept:
        (new / path.parent).mkdir(parents=True, exist_ok=True)
        _link(old / path, new / path)
    for path in _empty(old):
        (new / path).mkdir(parents=True, exist_ok=True)
    for above in {above for path in (*kept, *_empty(old)) for above in path.parents} - {PurePath()}:
        shutil.copystat(old / above, new / above)
    shutil.copymode(old, new)


def _manifest(folder: Path) -> dict[str, str]:
    """Return the hashes that a folder's manifest lists; none for a folder without one, or with one that is damaged."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return {str(name): str(value) for name, value in hashes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _written(folder: Path, path: PurePath, ours: dict[str, str]) -> bool:
    """Whether a file is as an earlier call wrote it."""
    name = path.as_posix()
    return name in ours and not (folder / path).is_symlink() and file_sha256(folder / path) == ours[name]


def _is_part(name: str, new: Path) -> bool:
    """Whether a loader would read a file as part of the new model. A tokenizer.json comes before other vocabularies."""
    if (new / "tokenizer.json").exists() and any(fnmatchcase(name, pattern) for pattern in VOCABULARIES):
        return False
    return any(fnmatchcase(name, pattern) for pattern in PARTS)


def _kind(path: Path) -> str:
    """Return "folder", "file" or, where nothing is, ""."""
    if path.is_dir() and not path.is_symlink():
        return "folder"
    return "file" if os.path.lexists(path) else ""


def _files(folder: Path) -> Iterator[PurePath]:
    """Yield the paths of all files below a folder, relative to it; a symbolic link is a file."""
    for above, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(above, name))]
        yield from (PurePath(os.path.relpath(os.path.join(above, name), folder)) for name in (*names, *links))


def _empty(folder: Path) -> Iterator[PurePath]:
    """Yield the paths of folders without entries, relative to a folder."""
    for above, folders, names in os.walk(folder):
        if not folders and not names and Path(above) != folder:
            yield PurePath(os.path.relpath(above, folder))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):  # a disk without hard links
            raise
        shutil.copy2(source, target, follow_symlinks=False)
