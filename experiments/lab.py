"""The frame of every experiment: options, the run, and results that are written all or nothing.

An experiment is a file with a docstring (question, command, cost, findings beside published ones), a class `Options`, a
function `run(options) -> Results`, and `main = lab.command(Options, run, __doc__)`. Of all modules of the experiments
only this one imports `jaxheads.execution.identity`, `jaxheads.extras`, `jaxheads.files`, `jaxheads.interrupts`,
`jaxheads.progress` and `jaxheads.provenance`; the others take them from here.
"""

import hashlib
import inspect
import json
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import filelock
import jax
import pandas as pd
import tyro

import jaxheads as jh
from jaxheads.execution.identity import fingerprint
from jaxheads.extras import MissingExtraError, extra
from jaxheads.files import (
    Content,
    check_writable,
    disk_is_full,
    temporary_directory,
    write_atomically,
    write_together,
)
from jaxheads.interrupts import leave, terminable
from jaxheads.progress import progress
from jaxheads.provenance import code, environment, made_by, numerics, provenance, without_directories
from jaxheads.statistics import Interval
from jaxheads.tables import HeadTable, footnote, marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Options",
    "Results",
    "TrainingOptions",
    "bounds",
    "code",
    "command",
    "extra",
    "file_name",
    "markdown",
    "points_and_mean",
    "progress",
    "provenance",
    "temporary_directory",
    "write",
    "write_atomically",
]


@dataclass(frozen=True)
class Options:
    """Options of every experiment.

    Attributes:
        quick: a small run, which only shows that the experiment works.
        out: the folder of the results.
    """

    least: ClassVar[Mapping[str, float]] = {"seed": 0}
    """Least values of options whose values may be below 1 (whole numbers), or 0 (others)."""

    quick: bool = False
    out: Path = Path("results")

    def check(self) -> None:
        """Raise ValueError for options that can't be meant: numbers that are too small or not finite."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == () and entry.default != ():
                raise ValueError(f"--{entry.name}: expected at least one value, got none")
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _check_number(f"--{entry.name}", number, self.least.get(entry.name))

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.out

    @property
    def unfinished(self) -> Path:
        """The folder for finished parts of a run that may be stopped. It is removed when the results are written.

        Other options, and other versions of the packages, have another folder.
        """
        asked = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "out"}
        return self.folder / ".partial" / hashlib.sha256(repr((asked, numerics())).encode()).hexdigest()[:12]

    def keep(self, compute: Callable[..., Iterable[Mapping[str, Any]]], *arguments: Any) -> list[dict[str, Any]]:
        """Return the rows that a function computes: from the disk where a run that was stopped has finished them.

        Another function, another code of it, and other arguments have other rows.
        """
        path = self.unfinished / f"{compute.__name__}-{fingerprint(compute, arguments)}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            rows = json.dumps([dict(row) for row in compute(*arguments)], default=lambda number: number.item())
        write_atomically(path, rows.encode())
        return json.loads(rows)  # the types that a later run reads


def _check_number(name: str, number: float, least: float | None) -> None:
    whole = isinstance(number, int)
    if least is None and not whole:
        right, expected = 0 < number < math.inf, "a number above 0"
    else:
        least = 1 if least is None else least
        right, expected = least <= number < (2**32 if whole else math.inf), f"a number from {least:g} up"
        expected += ", below 2 to the 32" if whole else ""
    if not right:
        raise ValueError(f"{name}: expected {expected}, got {number}")


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of an experiment that trains models.

    Attributes:
        seeds: models of each kind; the experiment's usual number when left out.
        steps: training steps; the experiment's usual number when left out.
        batch: examples of a step.
        rate: AdamW's learning rate.
    """

    usual: ClassVar[tuple[int, int]]
    """Seeds and steps of a whole run."""
    short: ClassVar[tuple[int, int]]
    """Seeds and steps of a quick run."""

    seeds: int | None = None
    steps: int | None = None
    batch: int = 32
    rate: float = 1e-3

    @property
    def trained(self) -> tuple[int, int]:
        """Seeds and steps of this run."""
        seeds, steps = self.short if self.quick else self.usual
        return seeds if self.seeds is None else self.seeds, steps if self.steps is None else self.steps

    @property
    def about(self) -> dict[str, Any]:
        """Words about the training for provenance."""
        seeds, steps = self.trained
        return {"seeds": seeds, "steps": steps, "batch": self.batch, "rate": self.rate}


@dataclass(frozen=True)
class Results:
    """Everything that an experiment writes.

    Attributes:
        page: Markdown for readers, `summary.md`.
        about: plain JSON values for `provenance.json`, beside the environment.
        tables: `NAME.csv` by name. An index is written unless it only counts the rows and has no name.
        figures: `NAME.png` by name.
        heads: tables of heads by name, each in the files of `HeadTable.save`.
        others: contents of other files by file name.
        folder: a folder inside the results' folder, where an experiment has several.
    """

    page: str
    about: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, "jh.plots.Picture"] = field(default_factory=dict)
    heads: Mapping[str, HeadTable] = field(default_factory=dict)
    others: Mapping[str, Content] = field(default_factory=dict)
    folder: str = ""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def command(
    options: type[AnyOptions], run: Callable[[AnyOptions], Results | Iterable[Results]], about: str | None
) -> Callable[..., None]:
    """Return the experiment's `main`: read the options, run, write the results, print the page.

    Args:
        options: the class that the command line is read into.
        run: the experiment; its file names the command. Where it yields several results, each is written as it comes.
        about: the text of `--help`.
    """
    name = Path(inspect.getfile(run)).stem
    # In a wheel the experiments are `jaxheads.experiments`.
    program = f"python -m {__package__}.{name}"
    about = (about or "").replace(f"python -m experiments.{name}", program)

    def main(arguments: list[str] | None = None) -> None:
        chosen = tyro.cli(options, args=arguments, prog=program, description=about)
        words = map(without_directories, sys.argv[1:] if arguments is None else arguments)
        made = made_by(f"{program} {shlex.join(words)}".rstrip())
        try:
            chosen.check()
            check_writable(chosen.folder)
            with terminable(), _held(chosen.unfinished), _compilation(chosen):
                results = run(chosen)
                for result in (results,) if isinstance(results, Results) else results:
                    result = replace(result, page=f"{result.page.rstrip()}\n\n{made}\n")
                    write(result, chosen.folder / result.folder)
                    print(f"{result.page}\nwritten to {chosen.folder / result.folder}")
                shutil.rmtree(chosen.unfinished, ignore_errors=True)
        except KeyboardInterrupt:
            print(f"stopped{_goes_on(chosen)}", file=sys.stderr)
            if arguments is None:
                leave(130)
            sys.exit(130)
        except Exception as error:
            if not isinstance(
                error, ValueError | OSError | FloatingPointError | MissingExtraError
            ) and not disk_is_full(error):
                raise
            sys.exit(f"{name}: {error}{_goes_on(chosen) if isinstance(error, OSError) else _anew(chosen, error)}")
        finally:
            for folder in (chosen.unfinished, chosen.unfinished.parent):
                with suppress(OSError):
                    folder.rmdir()  # where it is empty

    return main


def _goes_on(options: Options) -> str:
    """Return words on how to go on, if anything is finished."""
    kept = options.unfinished.is_dir() and any(options.unfinished.iterdir())
    return "; the same command goes on from here" if kept else ""


def _anew(options: Options, error: Exception) -> str:
    """Return words on how to begin anew, if unfinished work is of other code."""
    other = "holds another training" in str(error)
    return f". The code has changed since: remove {options.unfinished}, or choose another --out" if other else ""


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder of unfinished work for this process, if it has one.

    Raises:
        ValueError: for a folder that another process holds.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
    except filelock.Timeout:
        message = f"another process runs this command, with its work in {folder}: wait for it, or choose another --out"
        raise ValueError(message) from None


@contextmanager
def _compilation(options: Options) -> Iterator[None]:
    before = jax.config.values["jax_disable_most_optimizations"]
    # A quick training compiles far longer than it computes.
    if options.quick and isinstance(options, TrainingOptions):
        jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def write(results: Results, folder: Path) -> None:
    """Write all files of the results or, if any can't be written, none."""
    contents: dict[str, Content] = {f"{name}.csv": _csv(table) for name, table in results.tables.items()}
    with temporary_directory(folder) as scratch:
        pictures = [figure.save(scratch / f"{name}.png") for name, figure in results.figures.items()]
        contents |= {path.name: path.read_bytes() for path in pictures} | _head_files(results.heads, scratch)
    contents |= results.others
    contents["summary.md"] = results.page.encode()
    contents["provenance.json"] = (json.dumps({**results.about, **environment()}, indent=2) + "\n").encode()
    # Examples of an earlier run would be taken for a table's own.
    stale = [folder / f"{name}.per_example.parquet" for name, table in results.heads.items() if table.examples is None]
    write_together({folder / name: content for name, content in contents.items()}, stale)


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=_has_index(table), lineterminator="\n").encode()


def _has_index(table: pd.DataFrame) -> bool:
    return table.index.name is not None or not isinstance(table.index, pd.RangeIndex)


def _head_files(tables: Mapping[str, HeadTable], scratch: Path) -> dict[str, Content]:
    paths = [path for name, table in tables.items() for path in replace(table, name=name).save(scratch)]
    return {path.name: path.read_bytes() for path in paths}


def markdown(table: pd.DataFrame, floatfmt: str = ".3g") -> str:
    """Return a table as Markdown, with its index unless that only counts the rows and has no name.

    Numbers of examples (`n`, `…_n`) under 10 are marked, with a footnote.
    """
    shown = marked(table.reset_index() if _has_index(table) else table)
    return "\n\n".join(filter(None, [shown.to_markdown(index=False, floatfmt=floatfmt), footnote(shown)]))


def bounds(name: str, interval: Interval) -> dict[str, Any]:
    """Return an interval as the columns of a table: NAME, NAME_low, NAME_high and NAME_n."""
    mean, low, high, n = interval
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high), f"{name}_n": int(n)}


def points_and_mean(axes: "Axes", frame: pd.DataFrame, x: str, y: str, *, color: str, label: str) -> None:
    """Draw one point a row, and a line through the means of the points at each `x`."""
    axes.scatter(frame[x], frame[y], s=8, color=color, alpha=0.5)
    mean: Any = frame.groupby(x)[y].mean()
    axes.plot(mean.index, mean, color=color, label=label)


def file_name(words: str) -> str:
    """Return words as part of a file's name: "K = 2, one layer" becomes "K2-one-layer"."""
    return words.replace(" = ", "").replace(", ", "-").replace(" ", "-")
