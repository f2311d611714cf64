"""The common form of every container: a config and named tensors in Hugging Face's words, read on demand."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...provenance import file_sha256
from .containers import reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)


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
            there is none). Whatever it raises becomes the reason: a model is of use without its tokenizer.
        name: the source that the user named.
        identity: returns "sha256:<hex>" of the weight files (see `files_identity`) or "hub:<owner>/<name>@<commit>";
            it may read the files.
        preprocessor: the contents of preprocessor_config.json: the steps from images or audio to the model's input.
        tokenizer_of: `read_tokenizer` for a `model_type` that config.json lacks, where the reader needs it.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    read_tokenizer: Callable[[], tuple[PreTrainedTokenizerBase | None, str]]
    name: str
    identity: Callable[[], str]
    preprocessor: dict[str, Any] | None = None
    tokenizer_of: Callable[[str], tuple[PreTrainedTokenizerBase | None, str]] | None = None

    def with_config(self, config: dict[str, Any]) -> Checkpoint:
        """Return the checkpoint with another config, which may have the `model_type` that its own lacks."""
        family = config.get("model_type")
        if self.tokenizer_of is None or family in (None, self.config.get("model_type")):
            return replace(self, config=config)
        return replace(self, config=config, read_tokenizer=partial(self.tokenizer_of, family))

    @cached_property
    def _tokenizer(self) -> tuple[PreTrainedTokenizerBase | None, str]:
        try:
            return self.read_tokenizer()
        except Exception as error:
            _LOG.warning("%s is loaded without its tokenizer: %s", self.name, reason(error))
            return None, str(error) if isinstance(error, ValueError) else reason(error)

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
