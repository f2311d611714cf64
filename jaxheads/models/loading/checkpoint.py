"""The common form of every container: a config and named tensors in Hugging Face's words, read on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...provenance import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint. `read` loads its values and keeps nothing in memory afterwards.

    `dtype` names the stored format ("float32", "bfloat16", "Q4_1"); `read` returns bfloat16 as
    `ml_dtypes.bfloat16` and quantised tensors as float32.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """A model's files in Hugging Face's form, whatever container they came in.

    Attributes:
        config: the contents of config.json.
        tensors: by Hugging Face's names, in its orientation and its rotary convention (rotate-half).
        read_tokenizer: loads the tokenizer, when it is first needed: returns (tokenizer, "") or (None, the reason why
            there is none), and raises ValueError for one that can't be loaded.
        name: the source that the user named.
        identity: returns "sha256:<hex>" of the weight files (see `files_identity`) or "hub:<owner>/<name>@<commit>";
            it may read the files.
        preprocessor: the contents of preprocessor_config.json: the steps from images or audio to the model's input.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    read_tokenizer: Callable[[], tuple[PreTrainedTokenizerBase | None, str]]
    name: str
    identity: Callable[[], str]
    preprocessor: dict[str, Any] | None = None

    @cached_property
    def _tokenizer(self) -> tuple[PreTrainedTokenizerBase | None, str]:
        return self.read_tokenizer()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, or None."""
        return self._tokenizer[0]

    @property
    def no_tokenizer(self) -> str:
        """The reason why there is no tokenizer; empty where there is one."""
        return self._tokenizer[1]


def files_identity(paths: Sequence[Path]) -> str:
    """Hash weight files: the SHA-256 of a single file, or of sha256sum's listing of several, sorted by name.

    Returns "unknown: …" where a file has gone since it was read, so that results computed from it are not lost.
    """
    try:
        digests = {path.name: file_sha256(path) for path in paths}
    except OSError as error:
        return f"unknown: {Path(error.filename or paths[0]).name} can't be read any more"
    if len(digests) == 1:
        return f"sha256:{next(iter(digests.values()))}"
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
