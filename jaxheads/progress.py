"""One progress bar for every long run: on the terminal if there is one, silent otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""Function `advance(n=1, status="")`: count n more units of work, and show the status of the run."""


@contextmanager
def progress(total: int | None, label: str, show: bool, *, force: bool = False) -> Iterator[Advance]:
    """Show a progress bar on stderr, and yield the function that advances it.

    Args:
        total: units of work; None makes the bar count without an end.
        force: show the bar even if stderr is no terminal (a log file, a test). rich's own environment variables
            (`FORCE_COLOR`, `TTY_COMPATIBLE`) do so as well.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, force_terminal=True if force else None)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (force or (show and console.is_terminal))) as bar:
        task = bar.add_task(label, total=total)

        def advance(n: int = 1, status: str = "") -> None:
            bar.update(task, advance=n, description=f"{label}: {status}" if status else None)

        yield advance
