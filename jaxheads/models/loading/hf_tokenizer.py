"""The tokenizer of a Hugging Face directory."""

from __future__ import annotations

import base64
import inspect
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .containers import listed, reading, require_files
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


_OLD_CLASSES = {"LLaMATokenizer": "LlamaTokenizer", "MT5Tokenizer": "T5Tokenizer", "MT5TokenizerFast": "T5Tokenizer"}
"""Current class names of old ones that transformers has forgotten."""


def directory_tokenizer(directory: Path, family: str | None = None) -> tuple[PreTrainedTokenizerBase | None, str]:
    """Load the tokenizer of `directory`: return (tokenizer, "") or (None, the reason why it has none).

    Only local files are read and none of their code is run.

    Args:
        family: the `model_type`, where config.json lacks it.

    Raises:
        ValueError: for a tokenizer that can't be loaded; a directory without tokenizer files is no error.
    """
    require_files(directory)
    if not _has_vocabulary(directory):
        return None, f"{directory} has no tokenizer files (looked for {', '.join(VOCABULARIES)})"
    import_transformers()
    _check_charsmaps(directory / "tokenizer.json")
    files = listed(sorted(item.name for item in directory.iterdir()), 20)
    remedy = f"The directory holds {files}: fetch the tokenizer's files again, or the missing ones"
    with reading(directory, "a tokenizer", remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to install other packages
        tokenizer = _made(directory, family)
    if not _vocabulary_free(directory) and _made_up(tokenizer):
        wanted = ", ".join(tokenizer.vocab_files_names.values())
        return None, (
            f"{type(tokenizer).__name__} found no vocabulary in {directory}: it reads {wanted}. Put its file there, or "
            "fetch it again"
        )
    return tokenizer, ""


def _made(directory: Path, family: str | None) -> Any:
    """Let transformers make the tokenizer, or make it by the class that the files or the family name."""
    from transformers import AutoTokenizer

    settings = {} if family is None else {"config": _config_of(family)}
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **settings)
    except Exception as error:  # whatever ends it, an old class or an empty token may have
        tokenizer = _by_class(directory)
        if tokenizer is None:
            raise error
        return tokenizer


def _config_of(family: str) -> Any:
    """Return transformers' default config of a family, from which it knows the class of the tokenizer."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[family]()


def _by_class(directory: Path) -> Any:
    """Make the tokenizer by its class, old or new; None without the name of one, or if the class can't either.

    Special tokens of no letter, which the first Llamas have, are those of the class.

    Raises:
        ValueError: for a class that transformers does not have.
    """
    import transformers

    settings = _json(directory / "tokenizer_config.json")
    name = settings.get("tokenizer_class") or _json(directory / "config.json").get("tokenizer_class")
    if not isinstance(name, str):
        return None
    kind = getattr(transformers, _OLD_CLASSES.get(name, name), None)
    if kind is None:
        raise ValueError(f"its files name {name}, a class that transformers lacks")
    defaults = {key: parameter.default for key, parameter in inspect.signature(kind.__init__).parameters.items()}
    empty = [key for key, value in settings.items() if value == "" and key.endswith("_token")]
    try:
        return kind.from_pretrained(directory, local_files_only=True, **{key: defaults.get(key) for key in empty})
    except Exception:  # then the first error counts
        return None


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is none, or none that is whole."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


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
