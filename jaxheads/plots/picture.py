"""The figure and the axes of all pictures: outside pyplot, without global state or display.

This module imports matplotlib, which takes a while: import it inside functions.
"""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..arguments import checked
from ..files import write_atomically
from .colors import PALETTE

DPI = 200
"""Dots an inch of pictures in files."""


class Picture(Figure):
    """A figure that shows itself in notebooks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"layout": "constrained", **options})
        FigureCanvasAgg(self)

    @checked()
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to a file, whose ending is the format, and return the path.

        Formats are those of matplotlib: `.png` (200 dots an inch), `.svg` (text stays text), `.pdf` and others. The
        file is written completely or not at all, and equal pictures have equal bytes.

        Raises:
            ValueError: for an ending that is no format.
            OSError: for a file that can't be written.
        """
        path = Path(path)
        known, ending = sorted(self.canvas.get_supported_filetypes()), path.suffix.lower().removeprefix(".")
        if ending not in known:
            endings = ", ".join(f".{ending}" for ending in known)
            raise ValueError(f"path: expected a file name that ends in one of {endings}, got {path.name!r}")
        return write_atomically(path, lambda file: self._write(file, ending, DPI))

    def _write(self, file: BinaryIO, ending: str, dpi: int) -> None:
        # The date and random names of parts would make each file another.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "ps": {"CreationDate": None}}.get(ending)
        with matplotlib.rc_context({"svg.hashsalt": "jaxheads", "svg.fonttype": "none"}):
            self.savefig(file, format=ending, dpi=dpi, metadata=undated)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self._write(file, "png", 100)
        return file.getvalue()


class Panel(Axes):
    """Axes of a picture, in the palette's colours."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_prop_cycle(color=PALETTE)

    @property
    def picture(self) -> Picture:
        """The picture that the panel is in."""
        figure = self.get_figure(root=True)
        assert isinstance(figure, Picture)
        return figure

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture that the panel is in, as `Picture.save` does."""
        return self.picture.save(path)

    def _repr_png_(self) -> bytes:
        return self.picture._repr_png_()
