"""Downloads from the hub in our own progress, and the import of the hub's without its warning in notebooks."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Any

from ...progress import Advance, downloads_shown, progress

BYTES = "huggingface_hub.snapshot_download"
"""The hub's name of the bar that counts what has arrived."""


def import_tqdm() -> None:
    """Import tqdm's bars as the hub and transformers do: without its advice to install ipywidgets in a notebook."""
    with warnings.catch_warnings(), suppress(ImportError):
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401


@contextmanager
def bars_of_the_hub(label: str) -> Iterator[type]:
    """Yield a class of bars for the hub: those that count bytes are one progress, which begins with the first byte."""
    import_tqdm()
    from huggingface_hub.utils import tqdm

    with ExitStack() as shown:
        lock, advances = Lock(), list[Advance]()

        class Bar(tqdm):
            def __init__(self, *arguments: Any, **options: Any):
                self.counts_bytes = options.get("name") == BYTES
                super().__init__(*arguments, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                if not self.counts_bytes or not n:
                    return
                with lock:
                    if not advances:
                        new = progress(self.total or None, label, downloads_shown(), unit="bytes")
                        advances.append(shown.enter_context(new))
                    advances[0](int(n), total=self.total or None)

        yield Bar
