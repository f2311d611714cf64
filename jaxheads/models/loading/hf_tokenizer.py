"""The tokenizer of a Hugging Face directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .containers import reading, require_files
from .transformers_import import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tekken.json",
    "bpe.codes",
    "dict.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
VOCABULARY_FREE = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # they read bytes or characters
WORD_START = "▁"
"""The mark of a word's start, the sole ordinary token that transformers gives a T5 tokenizer without files."""


def directory_tokenizer(directory: Path) -> tuple[PreTrainedTokenizerBase | None, str]:
    """Load the tokenizer of `directory`: return (tokenizer, "") or (None, the reason why it has none).

    Only local files are read and none of their code is run.

    Raises:
        ValueError: for a tokenizer that can't be loaded; a directory without tokenizer files is no error.
    """
    require_files(directory)
    if not _has_vocabulary(directory):
        return None, f"{directory} has no tokenizer files (looked for {', '.join(VOCABULARIES)})"
    import_transformers()
    from transformers import AutoTokenizer

    _check_charsmaps(directory / "tokenizer.json")
    with reading(directory, "a tokenizer", "Fetch its files again, or remove them to load the model without."):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not _vocabulary_free(directory) and _made_up(tokenizer):
        wanted = ", ".join(tokenizer.vocab_files_names.values())
        return None, (
            f"{type(tokenizer).__name__} found no vocabulary in {directory}: it reads {wanted}. Put its file there"
        )
    return tokenizer, ""


def _check_charsmaps(path: Path) -> None:
    """Raise ValueError for a map of characters that is shorter than it claims: tokenizers would end the process.

    Such a map begins with the size of its first part (4 bytes, little-endian), for which memory is taken at once.
    """
    content = path.read_bytes() if path.is_file() else b""
    if b"Precompiled" not in content and b"\\u00" not in content:  # a letter may be written as an escape
        return
    with reading(path, "a tokenizer"):
        steps: list[Any] = [json.loads(content)]
        while steps:
            step = steps.pop()
            steps += step.values() if isinstance(step, dict) else step if isinstance(step, list) else ()
            charsmap = step.get("precompiled_charsmap") if isinstance(step, dict) else None
            if isinstance(charsmap, str):
                table = base64.b64decode(charsmap)
                if int.from_bytes(table[:4], "little") > len(table) - 4:
                    raise ValueError("its precompiled_charsmap is cut off")


def _has_vocabulary(directory: Path) -> bool:
    # Without this check, transformers makes up a tokenizer of five tokens from tokenizer_config.json alone.
    return any(any(directory.glob(pattern)) for pattern in VOCABULARIES) or _vocabulary_free(directory)


def _made_up(tokenizer: Any) -> bool:
    """Whether transformers found none of the class's files and returned a tokenizer of special tokens alone."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), WORD_START}
    return not set(tokenizer.get_vocab()) - special


def _vocabulary_free(directory: Path) -> bool:
    config = directory / "tokenizer_config.json"
    return config.is_file() and any(name.encode() in config.read_bytes() for name in VOCABULARY_FREE)
