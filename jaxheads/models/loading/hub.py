"""Models of the Hugging Face hub, fetched once and then found in the hub's own cache."""

import errno
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .adapters import CONFIG as ADAPTER
from .adapters import WEIGHTS as ADAPTERS
from .checkpoint import Checkpoint
from .hf_directory import directory_checkpoint
from .hub_progress import bars_of_the_hub, import_tqdm
from .transformer_lens import SUFFIXES
from .weight_files import NothingFits, nothing_fits, weight_files

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
    "chat_template.*",
    "additional_chat_templates/*",
)
"""Files to fetch beside the weights."""

_OWNERS = (
    (r"distil.*", "distilbert"),
    (r"(openai-gpt|gpt2).*", "openai-community"),
    (r"bert-.*", "google-bert"),
    (r"(xlm-)?roberta-.*|xlm-.*", "FacebookAI"),
    (r"t5-.*", "google-t5"),
    (r"albert-.*", "albert"),
    (r"camembert-.*", "almanach"),
)
"""Owners of the hub's oldest models, which had none: the hub knows both names, its cache only that of the download."""


class NotOnTheHub(FileNotFoundError):
    """Error for a model that neither the hub nor its cache has."""


def hub_checkpoint(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    opened: Callable[..., Checkpoint] = directory_checkpoint,
) -> Checkpoint:
    """Open "owner/name" of the hub (or "name", if it is as old as "gpt2") at a branch, tag or commit.

    Fetches config, tokenizer and a single format of the weights, safetensors first. Where the hub can't be reached
    (no network, HF_HUB_OFFLINE) or refuses, the copy in its cache is opened, by `opened`.

    Raises:
        FileNotFoundError: where neither the hub nor the cache has the model, or the hub has nothing of it to load.
    """
    directory = _snapshot(repository, revision, cache_dir)
    commit = directory.name
    return opened(directory, name=repository, identity=lambda: f"hub:{repository}@{commit}")


def hub_adapter(repository: str, *, revision: str | None = None) -> Path:
    """Return the local directory of an adapter's repository, fetched as `hub_checkpoint` does."""
    return _snapshot(repository, revision, None, adapter=True)


def _snapshot(repository: str, revision: str | None, cache_dir: Path | None, *, adapter: bool = False) -> Path:
    """Download a revision's files and return their directory; where that fails, return the cached one."""
    import_tqdm()
    from huggingface_hub import HfApi, snapshot_download

    own: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir}
    try:
        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        wanted = _wanted(repository, {sibling.rfilename for sibling in siblings}, adapter=adapter)
        with bars_of_the_hub(f"fetching {repository}") as bars:
            return Path(snapshot_download(repository, allow_patterns=wanted, tqdm_class=bars, **own))
    except Exception as refusal:  # whatever failed (the HTTP library's errors too), the cache may have the files
        full = isinstance(refusal, OSError) and refusal.errno == errno.ENOSPC
        if full or isinstance(refusal, NothingFits):
            raise
        return _cached(repository, revision, cache_dir, refusal)


def _cached(repository: str, revision: str | None, cache_dir: Path | None, refusal: Exception) -> Path:
    """Return the directory of the cached files; raise FileNotFoundError with the hub's `refusal` if there are none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    missing = None
    for name in (repository, *_with_owner(repository)):
        try:
            return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, local_files_only=True))
        except IncompleteSnapshotError as error:
            # The repository has more files than we fetch; the reader of a file that is needed reports it missing.
            return Path(error.snapshot_path)
        except Exception as error:
            missing = missing or error
    version = f" at revision {revision!r}" if revision else ""
    raise NotOnTheHub(
        f"no model {repository!r}{version}: there's no such local path, the hub gave none "
        f"({_first_line(refusal)}) and its cache has none ({_first_line(missing)}). Check the spelling "
        f"and the network; for a private or gated model run `hf auth login`; to have it without a "
        f"network, run `hf download {repository}` where there is one."
    ) from refusal


def _with_owner(repository: str) -> list[str]:
    """Return an old id without an owner with the owner that the hub has given it."""
    return [f"{owner}/{repository}" for pattern, owner in _OWNERS if re.fullmatch(pattern, repository)][:1]


def _wanted(repository: str, files: Collection[str], *, adapter: bool = False) -> list[str]:
    """List the patterns of the files to fetch: all text files and the preferred format of the weights.

    Args:
        adapter: whether an adapter's are wanted, also where there is a whole model beside it.
    """
    weights = None if adapter else weight_files(files)
    adapters = [name for name in ADAPTERS if name in files]
    if weights is None and adapters and ADAPTER in files:
        return [*TEXT, ADAPTER, adapters[0]]
    toys = [name for name in files if "/" not in name and name.endswith(SUFFIXES)]
    if weights is None and toys:
        return [*TEXT, *toys, "*cfg.json", "*_cfg.pkl", *(f"{Path(name).stem}.json" for name in toys)]
    if weights is None or "config.json" not in files:
        raise nothing_fits(f"the repository {repository!r}", files, "weights" if weights is None else "config.json")
    if weights.index is None:
        return [*TEXT, *weights.files]
    # An index may call its shards anything.
    return [*TEXT, weights.index, *(weights.files or [f"*{Path(weights.container).suffix}"])]


def _first_line(error: Exception | None) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
