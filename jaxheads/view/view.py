"""The view: a picture that answers to the pointer and the keyboard, in notebooks and in files."""

import html
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked
from ..extras import extra
from ..files import write_atomically
from .bundle import script
from .document import document

if TYPE_CHECKING:
    from ..plots import Picture


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """A picture of heads that shows itself in a notebook and is saved as one file.

    Attributes:
        payload: what is drawn, as plain values and packed arrays; "kind" says how.
        draw: returns the still picture, by matplotlib.
        height: of the frame in a notebook, in pixels.
    """

    payload: Mapping[str, Any]
    draw: "Callable[[], Picture]" = field(repr=False)
    height: int = 560

    def __repr__(self) -> str:
        title = self.payload.get("title")
        return f"<View of the kind {self.payload['kind']}{f': {title}' if title else ''}; save it as .html, .svg, …>"

    @property
    def html(self) -> str:
        """The text of a file that draws the view without a network."""
        return document(self.payload.get("title") or f"jaxheads: {self.payload['kind']}", [self.payload])

    @checked()
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the view to a file, whose ending is the format, and return the path.

        `.html` is one file that needs no network, with all that the notebook shows; `.svg`, `.png`, `.pdf` and the
        other formats of matplotlib are a still picture. The file is written completely or not at all.

        Raises:
            ValueError: for an ending that is no format.
            OSError: for a file that can't be written.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            return write_atomically(path, self.html.encode())
        with warnings.catch_warnings():
            # A token of a script that matplotlib's font lacks is an empty box in a still picture.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return self.draw().save(path)

    def widget(self) -> Any:
        """Return the view as a widget of anywidget: `widget.chosen` is the head that was opened last.

        Raises:
            MissingExtraError: without the package anywidget.
        """
        return widget_class(extra("anywidget", "a view as a widget"))(payload=dict(self.payload))

    def _repr_html_(self) -> str:
        """Return a frame of its own, whose script reaches nothing of the notebook."""
        title, text = html.escape(self.payload.get("title") or self.payload["kind"]), html.escape(self.html)
        style = f"width: 100%; height: {self.height}px; border: 0;"
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{style}" srcdoc="{text}"></iframe>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        # Colab shows widgets of others only where the user has switched them on; the frame works there as it is.
        if "google.colab" in sys.modules:
            return bundle
        try:
            shown = self.widget()._repr_mimebundle_()
        except ImportError:
            return bundle
        data = shown[0] if isinstance(shown, tuple) else shown
        return {**(data or {}), **bundle}


@cache
def widget_class(anywidget: Any) -> Any:
    """Return the class of widgets, made when it is first needed."""
    import traitlets  # comes with it

    class ViewWidget(anywidget.AnyWidget):
        """A view in a notebook."""

        _esm = script()
        payload = traitlets.Dict().tag(sync=True)
        chosen = traitlets.Dict().tag(sync=True)

    return ViewWidget
