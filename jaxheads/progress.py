"""One progress bar for every long run: on the terminal if there is one, silent otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]
"""`advance(n=1, said="")`: n more pieces are done, and what there is to say of the run just now."""


@contextmanager
def progress(total: int | None, label: str, show: bool, *, force: bool = False) -> Iterator[Advance]:
    """Show how far a run is, on stderr, and give the function that says so.

    Nothing is written where stderr is no terminal (a log file, a test) unless `force` says so, or rich's own
    environment variables (`FORCE_COLOR`, `TTY_COMPATIBLE`). `total` is None where nobody knows it: the bar
    then counts without an end.
    """
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

        def advance(n: int = 1, said: str = "") -> None:
            bar.update(task, advance=n, description=f"{label}: {said}" if said else None)

        yield advance
