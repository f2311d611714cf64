"""What every container becomes: a config and named tensors in Hugging Face's words, not yet read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...provenance import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint. Nothing is held in memory before `read` is called, nor after.

    `dtype` names what is stored ("float32", "bfloat16", "Q4_1"); `read` gives bfloat16 as
    `ml_dtypes.bfloat16` and quantised tensors as float32.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, whatever they were stored in, as Hugging Face would have named them.

    `config` has config.json's vocabulary; `tensors` have Hugging Face's names and orientation, and its
    rotary convention (rotate-half). Where `tokenizer` is None, `no_tokenizer` says why. `name` is what the
    user asked for. `identity()` is "sha256:<hex>" of the weight file, of the list of hashes where there are
    several (see `files_identity`), or "hub:<owner>/<name>@<commit>"; it may read the files. `preprocessor` is
    what the checkpoint says of how images (or audio) become its input, if it does.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerBase | None
    no_tokenizer: str
    name: str
    identity: Callable[[], str]
    preprocessor: dict[str, Any] | None = None


def files_identity(paths: Sequence[Path]) -> str:
    """Hash weight files: one file's SHA-256, or for several that of sha256sum's listing of them by name.

    "unknown: ..." where a file has gone since it was read: what was computed from it is not lost for that.
    """
    try:
        digests = {path.name: file_sha256(path) for path in paths}
    except OSError as error:
        return f"unknown: {Path(error.filename or paths[0]).name} can't be read any more"
    if len(digests) == 1:
        return f"sha256:{next(iter(digests.values()))}"
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
