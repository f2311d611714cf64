"""The tokenizer of a Hugging Face directory, or the reason why it has none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def directory_tokenizer(directory: Path) -> tuple[PreTrainedTokenizerBase | None, str]:
    """Load the tokenizer that lies in `directory`: (tokenizer, "") or (None, why there is none).

    Only local files are read and none of their code is run. Raises ValueError where there is a tokenizer
    that can't be loaded: it must not look like none.
    """
    if not _has_vocabulary(directory):
        return None, f"{directory} has no tokenizer files (looked for {', '.join(VOCABULARIES)})"
    from transformers import AutoTokenizer  # seconds to import: not for those who need no tokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False), ""
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(
            f"the tokenizer in {directory} can't be loaded: {error}. Fetch its files again, or remove them "
            "to load the model without."
        ) from error


def _has_vocabulary(directory: Path) -> bool:
    # without this, transformers makes up a tokenizer of five tokens from tokenizer_config.json alone
    if any(any(directory.glob(pattern)) for pattern in VOCABULARIES):
        return True
    config = directory / "tokenizer_config.json"
    return config.is_file() and any(name in config.read_text(encoding="utf-8") for name in VOCABULARY_FREE)
