"""The frame of every experiment: options, the run, and results that are written all or nothing.

An experiment is a file with a docstring (question, command, cost, findings beside published ones), a class `Options`, a
function `run(options) -> Results`, and `main = lab.command(Options, run, __doc__)`. Of all modules of the experiments
only this one imports `jaxheads.files`, `jaxheads.progress` and `jaxheads.provenance`; the others take them from here.
"""

import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, TypeVar

import jax
import pandas as pd
import tyro

from jaxheads.files import Content, write_atomically, write_together
from jaxheads.progress import progress
from jaxheads.provenance import environment, git_state, provenance
from jaxheads.statistics import Interval
from jaxheads.tables import HeadTable, footnote, marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Options",
    "Results",
    "TrainingOptions",
    "bounds",
    "command",
    "file_name",
    "git_state",
    "markdown",
    "panels",
    "points_and_mean",
    "progress",
    "provenance",
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

    quick: bool = False
    out: Path = Path("results")

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.out

    @property
    def unfinished(self) -> Path:
        """The folder for finished parts of a run that may be stopped. It is removed when the results are written."""
        return self.folder / ".partial"


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
        return self.seeds or seeds, self.steps or steps

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
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
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

    def main(arguments: list[str] | None = None) -> None:
        chosen = tyro.cli(options, args=arguments, prog=f"python -m experiments.{name}", description=about)
        try:
            with _compilation(chosen):
                results = run(chosen)
                for result in (results,) if isinstance(results, Results) else results:
                    write(result, chosen.folder / result.folder)
                    print(f"{result.page}\nwritten to {chosen.folder / result.folder}")
        except KeyboardInterrupt:
            goes_on = "; the same command goes on from here" if chosen.unfinished.exists() else ""
            print(f"stopped{goes_on}", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError, FloatingPointError) as error:
            sys.exit(f"{name}: {error}")
        shutil.rmtree(chosen.unfinished, ignore_errors=True)

    return main


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
    contents |= {f"{name}.png": partial(_draw, figure) for name, figure in results.figures.items()}
    contents |= _head_files(results.heads) | dict(results.others)
    contents["summary.md"] = results.page.encode()
    contents["provenance.json"] = (json.dumps({**results.about, **environment()}, indent=2) + "\n").encode()
    write_together({folder / name: content for name, content in contents.items()})
    for name, table in results.heads.items():
        if table.per_example is None:
            # Examples of an earlier run would be taken for this table's.
            (folder / f"{name}.per_example.parquet").unlink(missing_ok=True)


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=_has_index(table), lineterminator="\n").encode()


def _has_index(table: pd.DataFrame) -> bool:
    return table.index.name is not None or not isinstance(table.index, pd.RangeIndex)


def _draw(figure: "Figure", file: BinaryIO) -> None:
    figure.savefig(file, format="png", dpi=80)


def _head_files(tables: Mapping[str, HeadTable]) -> dict[str, Content]:
    with tempfile.TemporaryDirectory() as scratch:
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


def panels(count: int, size: tuple[float, float], rows: int = 1, **options: Any) -> "tuple[Figure, list[Axes]]":
    """Return a figure and its panels, row after row.

    Args:
        count: number of panels, a multiple of the rows.
        size: width and height in inches.
        options: of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, count // rows, squeeze=False, **options).flat)


def points_and_mean(axes: "Axes", frame: pd.DataFrame, x: str, y: str, *, color: str, label: str) -> None:
    """Draw one point a row, and a line through the means of the points at each `x`."""
    axes.scatter(frame[x], frame[y], s=8, color=color, alpha=0.5)
    mean: Any = frame.groupby(x)[y].mean()
    axes.plot(mean.index, mean, color=color, label=label)


def file_name(words: str) -> str:
    """Return words as part of a file's name: "K = 2, one layer" becomes "K2-one-layer"."""
    return words.replace(" = ", "").replace(", ", "-").replace(" ", "-")
