"""Progress of every long run: a bar on a terminal or in a notebook, lines in a log elsewhere.

Lines go through the logger "jaxheads": one at the start, one a minute, one at the end. Where nobody has configured
logging they appear on standard error. `JAXHEADS_PROGRESS=0` turns off what was not asked for by name.
"""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

Advance = Callable[..., None]
"""Function `advance(n=1, status="", total=None)`: count n more units of work, show the status, or a new total."""

PATIENCE = 5.0
"""Seconds of work after which progress is shown that was not asked for."""

EACH = 60.0
"""Seconds between two lines in a log."""

LOGGER = logging.getLogger("jaxheads")


@contextmanager
def progress(
    total: int | None, label: str, show: bool | None, *, force: bool = False, unit: str = ""
) -> Iterator[Advance]:
    """Show how far a long run is, and yield the function that advances it.

    Args:
        total: units of work; None counts without an end.
        show: None shows what takes longer than some seconds, unless `JAXHEADS_PROGRESS` is 0.
        force: show the bar even if stderr is no terminal (a log file, a test). rich's own environment variables
            (`FORCE_COLOR`, `TTY_COMPATIBLE`) do so as well.
        unit: of the work; "bytes" are shown as MB.
    """
    if show is None and os.environ.get("JAXHEADS_PROGRESS", "") == "0":
        show = False
    if show is False and not force:
        yield lambda n=1, status="", total=None: None
        return
    view = _view(total, label, force=force, unit=unit)
    timer = threading.Timer(0 if show else PATIENCE, view.start)
    timer.daemon = True
    if show or force:
        view.start()
    else:
        timer.start()
    finished = False
    try:
        yield view.advance
        finished = True
    finally:
        timer.cancel()
        view.stop(finished=finished)


def downloads_shown() -> bool:
    """Whether downloads are shown, from their start: no argument says so, `JAXHEADS_PROGRESS=0` says not."""
    return os.environ.get("JAXHEADS_PROGRESS", "") != "0"


class _View(Protocol):
    """A way to show progress; `advance` counts whether it was started or not."""

    def start(self) -> None: ...
    def advance(self, n: int = 1, status: str = "", total: int | None = None) -> None: ...
    def stop(self, *, finished: bool) -> None: ...


def _view(total: int | None, label: str, *, force: bool, unit: str) -> _View:
    from rich.console import Console

    console = Console(stderr=True, force_terminal=True if force else None)
    if console.is_jupyter:
        return _NotebookBar(total, label, unit)
    return _Bar(console, total, label, unit) if console.is_terminal else _Lines(total, label, unit)


def _rich_bar(console: Any, unit: str) -> Any:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    count = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    text, times = TextColumn("{task.description}", markup=False), (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(text, BarColumn(), *count, *times, console=console)


class _Bar:
    """rich's bar on a terminal."""

    def __init__(self, console: Any, total: int | None, label: str, unit: str):
        self.label, self.bar, self.lock, self.over = label, _rich_bar(console, unit), threading.Lock(), False
        self.task = self.bar.add_task(label, total=total)

    def start(self) -> None:
        with self.lock:
            if not self.over:
                self.bar.start()

    def advance(self, n: int = 1, status: str = "", total: int | None = None) -> None:
        words = f"{self.label}: {status}" if status else None
        self.bar.update(self.task, advance=n, description=words, **({} if total is None else {"total": total}))

    def stop(self, *, finished: bool) -> None:
        del finished
        with self.lock:
            self.over = True
            if self.bar.live.is_started:
                self.bar.stop()


class _NotebookBar(_Bar):
    """rich's bar as HTML below a notebook's cell: ipywidgets, which rich itself would need, may be missing."""

    SECONDS = 0.5
    """Least time between two pictures."""

    def __init__(self, total: int | None, label: str, unit: str):
        from rich.console import Console

        self.paper = Console(file=io.StringIO(), record=True, width=100, force_jupyter=False, force_terminal=True)
        super().__init__(self.paper, total, label, unit)
        self.shown, self.begun, self.handle = 0.0, False, None

    def start(self) -> None:
        # Only the thread of the cell writes below it: a bar that was waited for appears with the next advance.
        self.begun = True
        if threading.current_thread() is threading.main_thread():
            self._show()

    def advance(self, n: int = 1, status: str = "", total: int | None = None) -> None:
        super().advance(n, status, total)
        if self.begun and time.monotonic() - self.shown >= self.SECONDS:
            self._show()

    def stop(self, *, finished: bool) -> None:
        del finished
        self.over = True
        if self.begun:
            self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]  # there is one in a notebook

        with self.lock:
            self.shown = time.monotonic()
            self.paper.file = io.StringIO()  # only the record counts
            self.paper.print(self.bar.get_renderable())
            frame = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'
            picture = HTML(self.paper.export_html(inline_styles=True, code_format=frame))
            if self.handle is None:
                self.handle = display(picture, display_id=True)
            else:
                self.handle.update(picture)


class _Lines:
    """Lines in a log."""

    def __init__(self, total: int | None, label: str, unit: str):
        self.total, self.label, self.unit, self.status = total, label, unit, ""
        self.done, self.began, self.over = 0, time.monotonic(), threading.Event()
        self.lock, self.shown = threading.Lock(), False
        self.thread = threading.Thread(target=self._each_minute, daemon=True)

    def start(self) -> None:
        # The timer's thread may start the lines while the work ends: both lines come, in their order, or neither.
        with self.lock:
            if self.over.is_set():
                return
            _write_somewhere()
            LOGGER.info("%s: started", self.label)
            self.shown = True
            self.thread.start()

    def advance(self, n: int = 1, status: str = "", total: int | None = None) -> None:
        self.done, self.status = self.done + n, status or self.status
        self.total = self.total if total is None else total

    def stop(self, *, finished: bool) -> None:
        with self.lock:
            self.over.set()
        if self.shown:
            LOGGER.info("%s: %s, %s", self.label, "finished" if finished else "stopped", self._words())

    def _each_minute(self) -> None:
        while not self.over.wait(EACH):
            LOGGER.info("%s: %s", self.label, self._words())

    def _words(self) -> str:
        seconds, known = time.monotonic() - self.began, self.total or 0
        words = [f"{self._number(self.done)} of {self._number(known)}" if known else self._number(self.done)]
        if known:
            words.append(f"{100 * self.done / known:.0f} %")
        words.append(f"{timedelta(seconds=round(seconds))} passed")
        if known > self.done > 0:
            words.append(f"about {timedelta(seconds=round(seconds * (known - self.done) / self.done))} left")
        return ", ".join([*words, self.status] if self.status else words)

    def _number(self, count: int) -> str:
        return f"{count / 1e6:.1f} MB" if self.unit == "bytes" else f"{count:,}"


class _StandardError(logging.StreamHandler):
    """A handler on standard error for programs that configure no logging, and only as long as they don't."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            self.setStream(sys.stderr)
            super().emit(record)


def _write_somewhere() -> None:
    """Let lines appear where nobody has configured logging; else the user's settings decide."""
    if LOGGER.hasHandlers():
        return
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOGGER.addHandler(handler)
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
