"""HeadTable: the result of every measure and sweep, one row a head.

Dimension key: `L` layers, `N` heads, `E` examples, `M` metrics. A table's rows are the cells of a grid; `[L,N]` means
the grid's shape, also for grids with other axes than layer and head.
"""

import dataclasses
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..arguments import at_least, checked
from ..checks import one_of, shown
from ..plots import heatmap
from . import storage
from .counts import footnote, marked
from .grids import flat_columns, frozen, stack_examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plots import Panel
    from ..view import View

_NAME = re.compile(r"(?!.*\.(?:per_example|parquet)$)[A-Za-z0-9][A-Za-z0-9._+-]*")


@checked()
@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One metric over the grid: `mean`, `low`, `high`, `n` are `[L,N]`, `per_example` is `[E,L,N]` or None.

    `range` is the least and the largest value that the metric can have, infinite where there is none.

    Leave `low` and `high` out for an exact number, such as a function of the weights: both become NaN. `n` is the
    number of independent examples that the interval rests on; without it the table has no such column.
    """

    mean: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    n: ArrayLike | None = None
    per_example: ArrayLike | None = None
    range: tuple[float, float] | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HeadTable:
    """A frozen result: numbers for every head, their intervals, and their provenance.

    Arrays are read-only copies. A cell may be NaN (not measured), never infinite. Make a table with `from_columns`.

    Attributes:
        name: the stem of its files.
        frame: tidy, indexed by ("stack", "layer", "head"). A metric `m` has the columns `m`, `m_low`, `m_high`, and
            `m_n`, the number of independent examples behind the interval; columns without the two bounds beside them
            are extras (integers, words). `model` names the model; `token` is that at a position, where all agree.
        values: float64, `[L,N]` for one metric, `[M,L,N]` for several.
        per_example: float32, `[E,L,N]` or `[M,E,L,N]`, or None.
        provenance: plain JSON values.
        clusters: labels `[E]` of the examples in `per_example` that depend on each other, or None.

    Raises:
        ValueError: for fields that don't fit each other.
    """

    name: str
    frame: pd.DataFrame
    values: NDArray[np.float64]
    per_example: NDArray[np.float32] | None
    provenance: dict[str, Any]
    clusters: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name: expected a file stem of letters, digits and ._+- "
                f"(not ending in .parquet or .per_example), got {self.name!r}"
            )
        _check_frame(self.frame)
        object.__setattr__(self, "frame", self.frame.copy())
        object.__setattr__(self, "values", frozen(self.values, np.float64, "values"))
        means = self.frame[list(self.metrics)].to_numpy(dtype=np.float64).T.reshape(-1, *self.shape)
        if len(means) == 1 and self.values.ndim == len(self.shape):
            means = means[0]
        if not np.array_equal(self.values, means, equal_nan=True):
            raise ValueError(
                f"values: expected the frame's metrics, of shape {list(means.shape)}, "
                f"got other numbers, of shape {list(self.values.shape)}"
            )
        if self.per_example is not None:
            self._set_examples(frozen(self.per_example, np.float32, "per_example"))
        self._set_clusters()
        object.__setattr__(self, "provenance", storage.plain_values(self.provenance))

    def _set_examples(self, rows: NDArray[np.float32]) -> None:
        before, grid = self.values.shape[: -len(self.shape)], self.shape
        if rows.ndim != self.values.ndim + 1 or rows.shape != (*before, rows.shape[len(before)], *grid):
            raise ValueError(
                f"per_example: expected shape {[*before, 'E', *grid]}, got {list(rows.shape)}: the axis "
                f"of examples comes just before the grid"
            )
        object.__setattr__(self, "per_example", rows)

    def _set_clusters(self) -> None:
        if self.clusters is None:
            return
        labels = np.asarray(self.clusters)
        if self.examples is None or labels.shape != (self.examples,) or labels.dtype.kind not in "iu":
            raise ValueError(f"clusters: expected an integer for each of {self.examples} examples, got {shown(labels)}")
        object.__setattr__(self, "clusters", frozen(labels, np.int64, "clusters"))

    @classmethod
    @checked()
    def from_columns(
        cls,
        name: str,
        stack: str,
        columns: Mapping[str, Column],
        provenance: Mapping[str, Any] | None = None,
        *,
        squeeze: bool = False,
        extras: Mapping[str, ArrayLike] | None = None,
        axes: Sequence[str] = ("layer", "head"),
        clusters: ArrayLike | None = None,
    ) -> Self:
        """Make a table of metrics over one grid.

        Args:
            columns: by metric; all with examples, or all without.
            squeeze: whether to drop the metric axis of `values` and `per_example`, for a single metric.
            extras: `[L,N]` columns without an interval, of any type (`positional_offset`, a role's name).
            axes: names of the grid's axes, without "stack".
            clusters: integer labels `[E]` of examples that depend on each other.

        Raises:
            ValueError: for shapes that differ, infinity, a repeated name, examples in only part of the columns, or
                `squeeze` with several columns; the message names the column.
        """
        if not columns or (squeeze and len(columns) > 1):
            raise ValueError(f"columns: expected {'one' if squeeze else 'at least one'}, got {list(columns)}")
        shape = np.shape(next(iter(columns.values())).mean)
        if len(shape) != len(axes) or 0 in shape:
            raise ValueError(f"columns: expected arrays with axes {list(axes)}, not empty, got {list(shape)}")
        if taken := {"example", "stack", "cluster", *axes} & {*columns, *(extras or {})}:
            raise ValueError(f"columns: expected names that no index has, got {sorted(taken)}: rename them")
        # The name beside each number tells tables of several models apart after `pd.concat`.
        model = (provenance or {}).get("model")
        free = isinstance(model, str) and "model" not in {*columns, *(extras or {}), *axes}
        named = {"model": np.full(shape, model, object)} if free else {}
        flat = flat_columns(columns, {**(extras or {}), **named}, shape)
        index = grid_index(stack, shape, axes)
        values = np.stack([np.asarray(column.mean, dtype=np.float64) for column in columns.values()])
        per_example = stack_examples(columns, shape)
        if squeeze:
            values = values[0]
            per_example = None if per_example is None else per_example[0]
        labels: Any = None if clusters is None or per_example is None else np.asarray(clusters)
        # Infinity has no place in JSON.
        ranges = {
            name: [float(end) if np.isfinite(end) else None for end in column.range]
            for name, column in columns.items()
            if column.range is not None
        }
        about = {**(provenance or {}), **({"ranges": ranges} if ranges else {})}
        return cls(name, pd.DataFrame(flat, index=index), values, per_example, about, labels)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The columns with an interval, in the order of `values`."""
        return _metrics(self.frame)

    @property
    def stack(self) -> str:
        """The stack the heads belong to: "decoder", "encoder", "cross" ..."""
        return self.frame.index[0][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid's shape, `(L, N)`."""
        return _shape(self.frame)

    @checked()
    def range_of(self, metric: str) -> tuple[float, float] | None:
        """Return the least and the largest value that a metric can have; None where the table doesn't know."""
        one_of("metric", metric, self.metrics)
        known = self.provenance.get("ranges", {}).get(metric)
        if known is None:
            return None
        low, high = known
        return -np.inf if low is None else low, np.inf if high is None else high

    @property
    def examples(self) -> int | None:
        """Number of examples in `per_example`, `E`; None without it."""
        return None if self.per_example is None else self.per_example.shape[-len(self.shape) - 1]

    @checked()
    def grid(self, column: str) -> NDArray[Any]:
        """Return a column of the frame, interval bounds and extras included, as an `[L,N]` array."""
        return self.frame[self._known(column)].to_numpy(copy=True).reshape(self.shape)

    @checked(n=at_least(1))
    def top(self, column: str | None = None, n: int = 10, *, absolute: bool = False) -> pd.DataFrame:
        """Return the `n` rows with the largest `column` (by default the first metric), largest first.

        Cells that are NaN come last; ties keep the order of the grid.

        Args:
            absolute: whether to rank by magnitude.
        """
        column = self._known(column)
        ranked = self.frame.sort_values(
            column, ascending=False, kind="stable", key=np.abs if absolute else None, na_position="last"
        )
        return ranked.head(n)

    @checked()
    def plot(self, column: str | None = None, ax: "Axes | None" = None) -> "Panel":
        """Draw a column (by default the first metric) as a heatmap, layers down and heads across.

        Values of both signs have a diverging colormap with white at 0; NaN is grey. The bar names the unit, where the
        table's `provenance["units"]` has it.

        Returns:
            `ax`, or the axes of a new picture, which shows itself in a notebook: `table.plot().save("heads.svg")`.

        Raises:
            ValueError: for a column of words, or a grid without two axes.
        """
        column = self._known(column)
        if len(self.shape) != 2 or not pd.api.types.is_numeric_dtype(self.frame[column]):
            raise ValueError(
                f"plot: expected a column of numbers over two axes, got {column!r} "
                f"({self.frame[column].dtype}) over {self.frame.index.names[1:]}"
            )
        grid = self.grid(column).astype(np.float64)
        rows, columns = (str(axis) for axis in self.frame.index.names[1:])
        label = ", ".join(filter(None, (column, self.provenance.get("units", {}).get(column))))
        return heatmap(grid, title=self.name, label=label, rows=rows, columns=columns, ax=ax)

    @checked()
    def view(
        self, column: str | None = None, *, against: "HeadTable | None" = None, other: str | None = None
    ) -> "View":
        """Show the table so that it answers to pointer and keys: in a notebook, or `.save("heads.html")`.

        Heads are a grid that colours any column, hatched where the interval includes 0, and a sorted list; edges are a
        graph; a table by layer is a curve; other axes are rows of a grid.

        Args:
            column: that is shown first; the first metric when left out.
            against: another table over the same grid: the two are a scatter, with their rank correlation.
            other: the other table's column; `column` where it has that, else its first metric.

        Raises:
            ValueError: for an unknown column, one of words, or a table over another grid.
        """
        from .table_views import scatter_view, table_view

        column = self._known(column)
        for table, name in ((self, column), (against, other)):
            if table is not None and name is not None and not pd.api.types.is_numeric_dtype(table.frame.get(name)):
                raise ValueError(f"view: expected a column of numbers, got {name!r} of {list(table.frame)}")
        if against is None:
            return table_view(self, column)
        return scatter_view(self, against, column, other or (column if column in against.frame else against.metrics[0]))

    @checked()
    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the table into `directory`, creating it if necessary, and return the files' paths.

        The files are `NAME.parquet` (exact), `NAME.csv`, `NAME.md`, `NAME.provenance.json` and, for a table with
        examples, `NAME.per_example.parquet` (tidy: example, stack, layer, head and one float32 column a metric). They
        replace older ones together, and hold a hash of the table: `load` refuses files of two tables.

        Raises:
            OSError: for a file that can't be written; the old files stay.
        """
        layout = storage.Layout(self.metrics, self.shape, squeezed=self.values.ndim == len(self.shape))
        base, examples = Path(directory) / self.name, storage.Examples(self.per_example, self.clusters)
        return storage.save(base, self.frame, examples, self.provenance, layout)

    @classmethod
    @checked()
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved table back.

        Args:
            path: of `NAME.parquet`, with or without the ending.

        Raises:
            FileNotFoundError: for a missing file.
            ValueError: for a parquet file that is no HeadTable, or damaged, and for files of two tables, which a save
                that was killed between its files leaves.
        """
        return storage.load(Path(str(path).removesuffix(".parquet")), cls)

    def __repr__(self) -> str:
        shown = marked(self.top(n=5).drop(columns="model", errors="ignore"))
        return "\n".join(filter(None, [f"<HeadTable {self._summary()}>", shown.to_string(), footnote(shown)]))

    def _repr_html_(self) -> str:
        shown = marked(self.top(n=10).drop(columns="model", errors="ignore"))
        body = shown.to_html(float_format=lambda number: f"{number:.4g}")
        note = f"\n<p>{html.escape(footnote(shown))}</p>" if footnote(shown) else ""
        return f"<p><b>HeadTable</b> {html.escape(self._summary())}</p>\n{body}{note}"

    def _summary(self) -> str:
        axes = self.frame.index.names[1:]
        grid = " × ".join(f"{size} {axis}s" for size, axis in zip(self.shape, axes, strict=True))
        examples = "" if self.examples is None else f", {self.examples} examples kept"
        metrics, model = ", ".join(self.metrics), self.provenance.get("model")
        of_model = f" of {model}" if isinstance(model, str) else ""
        return f"{self.name}{of_model}: {metrics} ({self.stack}, {grid}{examples}); top by {self.metrics[0]}"

    def _known(self, column: str | None) -> str:
        if column is None:
            return self.metrics[0]
        if column not in self.frame:
            raise ValueError(f"column: expected one of {list(self.frame)}, got {column!r}")
        return column


@checked()
def grid_index(stack: str, shape: Sequence[int], axes: Sequence[str]) -> pd.MultiIndex:
    """Return the index of a table: one row a cell, the last axis fastest."""
    return pd.MultiIndex.from_product([[stack], *map(np.arange, shape)], names=["stack", *axes])


def _metrics(frame: pd.DataFrame) -> tuple[str, ...]:
    names = list(frame)
    return tuple(name for name in names if {f"{name}_low", f"{name}_high"} <= set(names))


def _shape(frame: pd.DataFrame) -> tuple[int, ...]:
    return tuple(int(last) + 1 for last in frame.index[-1][1:])


def _check_frame(frame: pd.DataFrame) -> None:
    if not _metrics(frame):
        raise ValueError(f"frame: expected a metric m with m_low and m_high, got {list(frame)}")
    index = frame.index
    fits = isinstance(index, pd.MultiIndex) and len(index) > 0 and index.names[0] == "stack"
    if fits:
        stack = str(index.get_level_values("stack")[0])
        fits = index.equals(grid_index(stack, _shape(frame), index.names[1:]))
    if not fits:
        raise ValueError(
            f"frame: expected an index stack, layer, head with one row a head, in the grid's order, "
            f"got {list(index.names)} with {len(frame)} rows"
        )
