"""Colours that colour-blind readers can tell apart: those of Okabe & Ito 2008, less their pale yellow."""

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines and points, in this order: blue, vermilion, green, purple, orange, sky blue, black."""

SEQUENTIAL, DIVERGING, MISSING = "viridis", "RdBu_r", "0.85"
"""Colours of heatmaps: for numbers of one sign, for numbers of both signs, and for those that are missing."""


@checked(number=at_least(0))
def color(number: int) -> str:
    """Return a colour of the palette by number; after the last the first comes again."""
    return PALETTE[number % len(PALETTE)]


def text_on(background: ArrayLike) -> str:
    """Return black or white: the one with more contrast on a background `(red, green, blue, …)`, each from 0 to 1.

    Contrast is WCAG 2.2's ratio of relative luminances, which is equal for both at a luminance of 0.179.
    """
    rgb = np.asarray(background, np.float64)[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "black" if luminance > 0.179 else "white"
