"""The command `jaxheads compare`: tables of several runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import write_atomically
from ..statistics import mean_interval, rank_correlation
from ..tables import Column, HeadTable

LEADING = 10
"""Heads whose overlap is told, and differences that are printed."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one table in two runs.

    Attributes:
        name: of the table.
        metric: its column.
        folders: the two folders.
        agreement: Spearman's rank correlation over heads.
        shared: how many of the LEADING heads by magnitude both have.
        differences: second less first, with intervals where both runs kept the same examples.
        paired: whether they did.
    """

    name: str
    metric: str
    folders: tuple[Path, Path]
    agreement: float
    shared: int
    differences: HeadTable
    paired: bool


def compare(folders: Sequence[Path], level: float) -> list[Comparison]:
    """Compare every table that all folders have with that of the first folder.

    Raises:
        ValueError: for fewer than two folders, no table in common, tables of other heads, or no metric in common.
        FileNotFoundError: for a missing folder.
    """
    if len(folders) < 2:
        raise ValueError(f"compare expects two folders or more, got {len(folders)}")
    names = [_tables_in(folder) for folder in folders]
    common = [name for name in names[0] if all(name in own for own in names)]
    if not common:
        having = "; ".join(f"{folder}: {', '.join(own) or 'none'}" for folder, own in zip(folders, names, strict=True))
        raise ValueError(f"compare expects a table of one name in all folders, got {having}")
    comparisons = []
    for name in common:
        first, *others = (HeadTable.load(folder / name) for folder in folders)
        for folder, other in zip(folders[1:], others, strict=True):
            comparisons += _compared(name, (folders[0], folder), first, other, level)
    return comparisons


def _tables_in(folder: Path) -> list[str]:
    if not folder.expanduser().is_dir():
        raise FileNotFoundError(f"{folder} is no folder of saved tables")
    paths = sorted(folder.expanduser().glob("*.provenance.json"))
    names = [path.name.removesuffix(".provenance.json") for path in paths]
    return [name for name in names if (folder / f"{name}.parquet").exists()]


def _compared(
    name: str, folders: tuple[Path, Path], first: HeadTable, other: HeadTable, level: float
) -> Iterator[Comparison]:
    if not first.frame.index.equals(other.frame.index):
        raise ValueError(
            f"{name}: expected tables of the same heads, got {first.stack} {list(first.shape)} in {folders[0]} and "
            f"{other.stack} {list(other.shape)} in {folders[1]}"
        )
    metrics = [metric for metric in first.metrics if metric in other.metrics]
    if not metrics:
        raise ValueError(f"{name}: no metric in common: {', '.join(first.metrics)}; {', '.join(other.metrics)}")
    paired = _are_paired(first, other)
    for metric in metrics:
        one, two = (table.grid(metric).astype(float) for table in (first, other))
        known = np.isfinite(one) & np.isfinite(two)
        agreement = rank_correlation(one[known], two[known]) if known.sum() > 2 else None
        leading = [
            set(np.argsort(-np.abs(np.where(known, grid, 0)), axis=None, kind="stable")[:LEADING])
            for grid in (one, two)
        ]
        column = Column(two - one)
        if paired:
            examples = _examples(other, metric) - _examples(first, metric)
            column = Column(*mean_interval(examples, clusters=first.clusters, level=level), per_example=examples)
        about = {"first": first.provenance, "second": other.provenance, "level": level}
        differences = HeadTable.from_columns(
            f"{name}-{metric}-{folders[1].name}-less-{folders[0].name}",
            first.stack,
            {"difference": column},
            about,
            squeeze=True,
            axes=[str(axis) for axis in first.frame.index.names[1:]],
            clusters=first.clusters if paired else None,
        )
        shared = len(leading[0] & leading[1])
        yield Comparison(name, metric, folders, np.nan if agreement is None else agreement, shared, differences, paired)


def _are_paired(first: HeadTable, other: HeadTable) -> bool:
    """Whether both tables kept the values of the same examples, which their provenance identifies by hashes."""
    if first.per_example is None or other.per_example is None or first.examples != other.examples:
        return False
    keys = ("examples_sha256", "tokens_sha256")
    return any(key in first.provenance and first.provenance[key] == other.provenance.get(key) for key in keys)


def _examples(table: HeadTable, metric: str) -> np.ndarray:
    """Return a metric's value of each example, `[E, *grid]`."""
    assert table.per_example is not None
    whole = np.asarray(table.per_example, np.float64)
    return whole if whole.ndim == len(table.shape) + 1 else whole[table.metrics.index(metric)]


def page(comparisons: Sequence[Comparison]) -> str:
    """Return the comparison as Markdown: a row a metric, then the leading differences that intervals tell from 0."""
    rows = [
        {
            "table": entry.name,
            "metric": entry.metric,
            "folders": f"{entry.folders[0]}, {entry.folders[1]}",
            "rank correlation": entry.agreement,
            f"shared of {LEADING} leading": entry.shared,
            "largest difference": np.nanmax(np.abs(entry.differences.values)),
            "examples": "the same" if entry.paired else "others",
        }
        for entry in comparisons
    ]
    parts = [pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g")]
    for entry in comparisons:
        if entry.paired:
            shown: Any = entry.differences.top(n=LEADING, absolute=True)
            told = shown[(shown["difference_low"] > 0) | (shown["difference_high"] < 0)]
            title = f"{entry.name}, {entry.metric}: {entry.folders[1]} less {entry.folders[0]}"
            text = (
                told.reset_index().to_markdown(index=False, floatfmt=".4g") if len(told) else "no difference is shown"
            )
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts)


def save(comparisons: Sequence[Comparison], out: Path) -> list[Path]:
    """Save the tables of differences, and the page; return the files' paths."""
    written = [path for entry in comparisons for path in entry.differences.save(out)]
    return [*written, write_atomically(out / "compare.md", f"{page(comparisons)}\n".encode())]
