"""The tokenizer of a Hugging Face directory."""

from __future__ import annotations

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

    with reading(directory, "a tokenizer", "Fetch its files again, or remove them to load the model without."):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not _vocabulary_free(directory) and _made_up(tokenizer):
        wanted = ", ".join(tokenizer.vocab_files_names.values())
        return None, (
            f"{type(tokenizer).__name__} found no vocabulary in {directory}: it reads {wanted}. Put its file there"
        )
    return tokenizer, ""


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
