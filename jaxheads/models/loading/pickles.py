"""Reader of pytorch_model.bin that needs no PyTorch and runs no code of the pickle.

A file of torch.save is a zip since PyTorch 1.6: `data.pkl` describes tensors as views of storages, and `data/KEY` holds
a storage's bytes. Before, it was a row of pickles, the storages after them (`old_pickles`). `plain_pickles` runs the
description, in which only the names that describe tensors are allowed. NumPy checks a view's bounds again where its
bytes are read.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .checkpoint import Tensor
from .containers import file_size, reading
from .old_pickles import is_old, old_tensors
from .pickled_tensors import CONVERT, TensorReader, only_tensors
from .plain_pickles import plain_pickle


def pickle_tensors(path: Path) -> dict[str, Tensor]:
    """List the tensors of a state dict written by torch.save, without reading their values.

    Raises:
        ValueError: for a file that is truncated or no state dict of tensors, whose pickle does or names anything that
            isn't needed to describe tensors, or whose tensors leave their storages; the message names the file.
    """
    size = file_size(path)
    with reading(path, "a file of torch.save"):
        if is_old(path):
            return old_tensors(path, size)
        _require_zip(path, size)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
        descriptions = [name for name in members if name.endswith("/data.pkl")]
        if len(descriptions) != 1:
            raise ValueError(f"it holds {len(descriptions)} files data.pkl, expected one")
        archive_of = _Archive(path, size, members, descriptions[0].removesuffix("data.pkl"))
        reader = TensorReader(path, size, archive_of.order(), archive_of.storage)
        return only_tensors(path, plain_pickle(archive_of.content("data.pkl"), **reader.answers))


class _Archive:
    """Members of the zip, below the folder that it has."""

    def __init__(self, path: Path, size: int, members: dict[str, zipfile.ZipInfo], folder: str):
        self.path, self.size, self.members, self.folder = path, size, members, folder

    def content(self, name: str) -> bytes:
        """Read a member."""
        member = self.members[self.folder + name]
        _check_member(member, self.size)
        return _content(self.path, member)

    def order(self) -> str:
        """Return the order of the storages' bytes."""
        if f"{self.folder}byteorder" not in self.members:  # absent before PyTorch 2.1
            return "little"
        return self.content("byteorder").decode("ascii").strip()

    def storage(self, key: str, dtype: str, expected: int) -> Callable[[], bytes]:
        """Return a function that reads a storage of at least `expected` bytes."""
        del dtype
        member = self.members.get(f"{self.folder}data/{key}")
        if member is None or member.file_size < expected:
            raise ValueError(f"storage {key} should hold {expected} bytes and is missing or shorter")
        _check_member(member, self.size)
        return partial(_content, self.path, member)


def _content(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Read a member of a zip where it lies; zipfile would read the zip's whole directory each time."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
        if len(header) == 30 and header.startswith(b"PK\3\4"):
            file.seek(sum(struct.unpack("<26x2H", header)), 1)  # past the member's name and extra field
            content = file.read(member.file_size)
            if zlib.crc32(content) == member.CRC:
                return content
    raise ValueError(f"{path} is corrupt: {member.filename} is not what the file's directory lists. Fetch it again.")


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} is compressed, as torch.save never does. {CONVERT}")
    if not 0 <= member.header_offset <= member.header_offset + member.file_size <= size:
        raise ValueError(f"{member.filename} lies outside the file")


def _require_zip(path: Path, size: int) -> None:
    if zipfile.is_zipfile(path):
        return
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        raise ValueError(f"{path} is cut off ({size:,} bytes). Fetch it again.")
    raise ValueError(
        f"{path} isn't in a format that torch.save writes (it may be a git-lfs pointer, or older than PyTorch 0.4). "
        f"{CONVERT}"
    )
