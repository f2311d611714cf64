"""A model of the Hugging Face hub: fetched once, from then on found in the hub's own cache."""

import errno
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError

from .checkpoint import Checkpoint
from .hf_directory import CONTAINERS, directory_checkpoint

TEXT = (
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.spm",
    "tekken.json",
    "*.tiktoken",
    "bpe.codes",
    "dict.txt",
    "preprocessor_config.json",
    "processor_config.json",
)
SHARDS = {"model.safetensors": "model-*.safetensors", "pytorch_model.bin": "pytorch_model-*.bin"}


def hub_checkpoint(repository: str, *, revision: str | None = None, cache_dir: Path | None = None) -> Checkpoint:
    """Open "owner/name" of the hub at a branch, tag or commit.

    Fetches config, tokenizer and one format of the weights, safetensors first. Where the hub can't be asked
    (no network, HF_HUB_OFFLINE) or refuses, what its cache holds is taken. Raises FileNotFoundError where
    neither has the model.
    """
    directory = _snapshot(repository, revision, cache_dir)
    commit = directory.name
    return directory_checkpoint(directory, name=repository, identity=lambda: f"hub:{repository}@{commit}")


def _snapshot(repository: str, revision: str | None, cache_dir: Path | None) -> Path:
    try:
        wanted = _wanted(repository, revision)
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=wanted))
    except Exception as refusal:  # whatever it is (the HTTP library's errors too), the cache may do
        if isinstance(refusal, OSError) and refusal.errno == errno.ENOSPC:
            raise
        return _cached(repository, revision, cache_dir, refusal)


def _cached(repository: str, revision: str | None, cache_dir: Path | None, refusal: Exception) -> Path:
    try:
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except IncompleteSnapshotError as error:
        # the repository has more files than were asked for; where a needed one is missing its reader says so
        return Path(error.snapshot_path)
    except Exception as missing:
        version = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"no model {repository!r}{version}: there's no such local path, the hub gave none "
            f"({_first_line(refusal)}) and its cache has none ({_first_line(missing)}). Check the spelling "
            f"and the network; for a private or gated model run `hf auth login`; to have it without a "
            f"network, run `hf download {repository}` where there is one."
        ) from refusal


def _wanted(repository: str, revision: str | None) -> list[str]:
    siblings = HfApi().model_info(repository, revision=revision).siblings or []
    files = {sibling.rfilename for sibling in siblings}
    for name in CONTAINERS:
        if name in files:
            return [*TEXT, name]
        if f"{name}.index.json" in files:
            return [*TEXT, f"{name}.index.json", SHARDS[name]]
    return list(TEXT)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
