"""Numbers of examples beside intervals, for people: few of them are marked."""

import pandas as pd

from ..arguments import checked

FEW = 10
"""Fewer independent examples than this are marked: an interval of so few is rough, and its length itself uncertain."""

FOOTNOTE = f"† fewer than {FEW} independent examples: the interval is rough."


@checked()
def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its columns `n` and `…_n` as words, those under FEW marked with †."""
    counts = [name for name in frame if (name == "n" or str(name).endswith("_n")) and frame[name].dtype.kind in "iuf"]
    return frame.assign(**{str(name): frame[name].map(marked_count) for name in counts})


def marked_count(n: float) -> str:
    """Return a number of examples as words: "8 †", "32", or nothing where it is not known."""
    return "" if pd.isna(n) else f"{int(n)} †" if n < FEW else f"{int(n)}"


@checked()
def footnote(frame: pd.DataFrame) -> str:
    """Return the footnote that a marked frame needs, or no words."""
    return FOOTNOTE if any(frame[name].astype(str).str.endswith("†").any() for name in frame) else ""
