"""The cache: where jaxheads keeps what it has fetched and compiled."""

import os
from pathlib import Path


def cache_directory(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the root of the cache: `cache`, else $JAXHEADS_CACHE, else ~/.cache/jaxheads."""
    return Path(cache or os.environ.get("JAXHEADS_CACHE") or "~/.cache/jaxheads").expanduser()
