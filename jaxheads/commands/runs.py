"""The command `jaxheads runs DIR`: what `resume=` has left in a directory, and the end of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..execution.run_folders import prune, runs_in


@dataclass(frozen=True)
class Runs:
    """The finished parts that resume= has left in a directory: of which questions, how large, and their removal."""

    directory: Annotated[Path, tyro.conf.Positional]
    """The directory that was given as resume=."""

    prune: bool = False
    """Remove the folders of finished questions: their answers can't be read from there again."""

    unfinished: bool = False
    """With --prune, remove also the folders of questions that have no answer yet."""

    days: float = 0.0
    """With --prune, leave what something was written to in the last so many days."""


def runs(options: Runs) -> None:
    """Print the runs of a directory as a Markdown table, or those that were removed."""
    from tabulate import tabulate

    found = list(runs_in(options.directory.expanduser()))
    if options.prune:
        found = prune(found, unfinished=options.unfinished, days=options.days)
    if found:
        print(tabulate([run.row() for run in found], headers="keys", tablefmt="pipe"))
    megabytes = sum(run.megabytes for run in found)
    print(f"{'removed ' if options.prune else ''}{len(found)} runs, {megabytes:.1f} MB, in {options.directory}")
