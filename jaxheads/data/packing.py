"""Packing: short texts share a window of tokens."""

from collections.abc import Iterator
from typing import NamedTuple

OPEN = 32
"""Windows that wait for more texts: the more there are, the fuller they become."""


class Window(NamedTuple):
    """A text, or a piece of a long one, as tokens.

    Attributes:
        number: of its text.
        whole: whether it is all of its text.
    """

    number: int
    ids: list[int]
    whole: bool


def packed(windows: Iterator[Window], length: int) -> Iterator[list[Window]]:
    """Yield windows of at most `length` tokens in all, each text with those that leave the least of it free.

    Pieces of a long text stay alone: texts of one window would depend on those of another.
    """
    waiting: list[list[Window]] = []
    for window in windows:
        if not window.whole:
            yield [window]
            continue
        room = [length - _size(row) - len(window.ids) for row in waiting]
        fitting = [index for index, left in enumerate(room) if left >= 0]
        if fitting:
            waiting[min(fitting, key=lambda index: room[index])].append(window)
        else:
            waiting.append([window])
        if len(waiting) > OPEN:
            yield waiting.pop(max(range(len(waiting)), key=lambda index: _size(waiting[index])))
    yield from waiting


def _size(row: list[Window]) -> int:
    return sum(len(window.ids) for window in row)
