"""Models of the Hugging Face hub, fetched once and then found in the hub's own cache."""

import errno
from collections.abc import Callable
from pathlib import Path

from .checkpoint import Checkpoint
from .hf_directory import CONTAINERS, directory_checkpoint
from .transformer_lens import SUFFIXES

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
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
SHARDS = {"model.safetensors": "model-*.safetensors", "pytorch_model.bin": "pytorch_model-*.bin"}


def hub_checkpoint(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    opened: Callable[..., Checkpoint] = directory_checkpoint,
) -> Checkpoint:
    """Open "owner/name" of the hub at a branch, tag or commit.

    Fetches config, tokenizer and a single format of the weights, safetensors first. Where the hub can't be reached
    (no network, HF_HUB_OFFLINE) or refuses, the copy in its cache is opened, by `opened`.

    Raises:
        FileNotFoundError: where neither the hub nor the cache has the model.
    """
    directory = _snapshot(repository, revision, cache_dir)
    commit = directory.name
    return opened(directory, name=repository, identity=lambda: f"hub:{repository}@{commit}")


def hub_directory(repository: str, *, revision: str | None = None) -> Path:
    """Return the local directory of a repository's files, fetched as `hub_checkpoint` does."""
    return _snapshot(repository, revision, None)


def _snapshot(repository: str, revision: str | None, cache_dir: Path | None) -> Path:
    """Download a revision's files and return their directory; where that fails, return the cached one."""
    from huggingface_hub import snapshot_download

    try:
        wanted = _wanted(repository, revision)
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=wanted))
    except Exception as refusal:  # whatever failed (the HTTP library's errors too), the cache may have the files
        if isinstance(refusal, OSError) and refusal.errno == errno.ENOSPC:
            raise
        return _cached(repository, revision, cache_dir, refusal)


def _cached(repository: str, revision: str | None, cache_dir: Path | None, refusal: Exception) -> Path:
    """Return the directory of the cached files; raise FileNotFoundError with the hub's `refusal` if there are none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except IncompleteSnapshotError as error:
        # The repository has more files than we fetch; the reader of a file that is needed reports it missing.
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
    """List the patterns of the files to fetch: all text files and the preferred format of the weights."""
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(repository, revision=revision).siblings or []
    files = {sibling.rfilename for sibling in siblings}
    for name in CONTAINERS:
        if name in files:
            return [*TEXT, name]
        if f"{name}.index.json" in files:
            return [*TEXT, f"{name}.index.json", SHARDS[name]]
    return [*TEXT, *(name for name in files if "/" not in name and name.endswith(SUFFIXES))]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
