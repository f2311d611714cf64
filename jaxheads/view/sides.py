"""The two sides of a pattern: the texts of queries and of keys, their words, their parts, what they lie on."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked


@checked(before=at_least(0))
@dataclass(frozen=True, eq=False)
class Backdrop:
    """An image, or a spectrogram, that tokens lie on as a grid.

    Attributes:
        image: `[height,width]` or `[height,width,3]`, of any numbers; its least is black and its largest white, unless
            it has 8-bit integers.
        grid: numbers of rows and columns of tokens; frames of a spectrogram are one row.
        before: number of tokens before the grid's first, such as a class token.
        words: what it is, for readers who can't see it.
    """

    image: ArrayLike
    grid: tuple[int, int]
    before: int = 0
    words: str = "the model's input"

    @property
    def pixels(self) -> np.ndarray:
        """The image as 8-bit integers.

        Raises:
            ValueError: for another shape.
        """
        values = np.asarray(self.image)
        if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3)) or not values.size:
            raise ValueError(f"image: expected [height,width] or [height,width,3], got {list(values.shape)}")
        values = values[:, :, 0] if values.shape[2:] == (1,) else values
        if values.dtype == np.uint8:
            return values
        low, high = float(values.min()), float(values.max())
        return np.rint((values.astype(np.float64) - low) / (high - low or 1.0) * 255).astype(np.uint8)

    def payload(self) -> dict[str, Any]:
        """Return the image as a PNG in a data URL, with its grid."""
        from PIL import Image

        file, pixels = io.BytesIO(), self.pixels
        Image.fromarray(pixels).save(file, "PNG")
        source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        wide = pixels.shape[1] > 2 * pixels.shape[0]
        return {
            "source": source,
            "grid": list(self.grid),
            "before": self.before,
            "words": self.words,
            "width": 640 if wide else 320,
        }


@checked()
@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one side of a pattern.

    Attributes:
        texts: of each token, with the space that a word's first token holds; "" at padding.
        words: index of each token's word, -1 for special tokens; words can then be shown in place of pieces.
        parts: name of the part that each token belongs to, such as the sentences of a pair.
        backdrop: what the tokens lie on.
    """

    texts: Sequence[str]
    words: Sequence[int] | None = None
    parts: Sequence[str] | None = None
    backdrop: Backdrop | None = None

    def __len__(self) -> int:
        return len(self.texts)


def one_side(tokens: Sequence[str] | Tokens | None, count: int, name: str) -> Tokens:
    """Return one side of a pattern with this number of tokens; numbers stand for texts that are left out.

    Raises:
        ValueError: for another number of texts, words or parts.
    """
    tokens = [str(position) for position in range(count)] if tokens is None else tokens
    side = tokens if isinstance(tokens, Tokens) else Tokens(tokens)
    for field in ("texts", "words", "parts"):
        own = getattr(side, field)
        if own is not None and len(own) != count:
            raise ValueError(f"{name}: expected {count} {field}, one a position of the pattern, got {len(own)}")
    if side.backdrop is not None and side.backdrop.before + np.prod(side.backdrop.grid) > count:
        raise ValueError(
            f"{name}: a grid of {list(side.backdrop.grid)} after {side.backdrop.before} tokens is more than the "
            f"pattern's {count} positions"
        )
    return side
