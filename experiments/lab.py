"""What several experiments share: the command line, and how their results are written."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import tyro
from matplotlib.figure import Figure

from jaxheads.files import write_together
from jaxheads.provenance import environment


def command_line(
    name: str, options: Any, run: Callable[[Any], None], about: str | None, given: list[str] | None
) -> None:
    """Read the options (a dataclass with `quick` and `out`), run, and show the page."""
    chosen = tyro.cli(options, args=given, prog=f"experiments.{name}", description=about)
    optimizations = jax.config.values["jax_disable_most_optimizations"]
    if chosen.quick:  # a quick run compiles far longer than it computes
        jax.config.update("jax_disable_most_optimizations", True)
    try:
        run(chosen)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{name}: {error}")
    finally:
        jax.config.update("jax_disable_most_optimizations", optimizations)
    print((chosen.out / "summary.md").read_text(encoding="utf-8"))


def publish(
    out: Path,
    page: str,
    about: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write all or nothing: `summary.md`, a csv for each table, a png for each figure, and `provenance.json`."""
    contents: dict[Any, Any] = {
        out / f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode() for name, table in tables.items()
    }
    for name, figure in (figures or {}).items():
        contents[out / f"{name}.png"] = partial(_draw, figure)
    contents[out / "summary.md"] = page.encode()
    contents[out / "provenance.json"] = (json.dumps({**about, **environment()}, indent=2) + "\n").encode()
    write_together(contents)


def _draw(figure: Figure, file: Any) -> None:
    figure.savefig(file, format="png", dpi=80)


def file_name(words: str) -> str:
    """Words as part of a file's name: "K = 2, one layer" is "K2-one-layer"."""
    return words.replace(" = ", "").replace(", ", "-").replace(" ", "-")
