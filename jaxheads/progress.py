"""Progress bars: one look everywhere, on stderr, and only where somebody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress(total: int | None, label: str, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar over `total` steps (None where nobody knows); calling what this gives advances it.

    Shown if `show` and stderr is a terminal; always gone from the screen when the work ends or fails.
    """
    if not (show and sys.stderr.isatty()):
        yield lambda steps=1: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda steps=1: bar.advance(task, steps)
