"""The page of a model: one HTML file that shows every head, without a network."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..files import write_atomically
from ..provenance import made_by
from ..view.document import document
from .portrait import Portrait
from .portrait.payload import page_payload, page_title

FILE = "heads.html"
"""Name of the page in an atlas's folder."""


def heads_page(portraits: Sequence[Portrait], command: str = "") -> str:
    """Return the HTML text of the page of one or more stacks, or of two models side by side.

    Args:
        command: what made it, for its last line.

    Raises:
        ValueError: for no portrait.
    """
    payload = page_payload(portraits, made_by(command) if command else "")
    return document(page_title(portraits), [payload])


def save_page(portraits: Sequence[Portrait], path: str | os.PathLike[str], command: str = "") -> Path:
    """Write the page to a file and return its path.

    Raises:
        OSError: for a file that can't be written.
    """
    return write_atomically(Path(path), heads_page(portraits, command).encode())
