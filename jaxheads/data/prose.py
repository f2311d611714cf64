"""Plain prose to measure heads on: 64 short passages of many kinds, or the user's own text file."""

import re
from importlib.resources import files
from os import PathLike
from pathlib import Path

from ..arguments import checked


@checked()
def passages(path: str | PathLike[str] | None = None) -> list[str]:
    """Return the passages of a UTF-8 text file, in order; by default the 64 that come with the package.

    Blank lines separate passages; a line break inside a passage becomes a space. The packaged ones were written for
    jaxheads: about 60 words each, of many genres, in English.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is not UTF-8 or holds no text.
    """
    source = files("jaxheads.data") / "prose.txt" if path is None else Path(path)
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: byte {error.start} cannot be decoded") from error
    blocks = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    paragraphs = [" ".join(block.split()) for block in blocks if block.strip()]
    if not paragraphs:
        raise ValueError(f"{source} holds no text: passages separated by blank lines were expected")
    return paragraphs
