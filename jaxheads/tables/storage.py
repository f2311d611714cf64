"""HeadTables on disk: parquet for programs, csv and md for people, json for provenance."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import Content, write_together
from ..provenance import OF_THE_RUN
from .counts import footnote, marked

T = TypeVar("T")
_LAYOUT_KEY, _TABLE_KEY, _OWN_HASH = b"jaxheads", b"jaxheads.table", "jaxheads.sha256"


class Layout(NamedTuple):
    """Facts about a table that its columns can't hold; the parquet file's metadata store them.

    Attributes:
        metrics: the columns with an interval.
        shape: of the grid.
        squeezed: whether `values` lack the axis of metrics.
    """

    metrics: Sequence[str]
    shape: Sequence[int]
    squeezed: bool


class Mark(NamedTuple):
    """What tells the files of one table from those of another.

    Attributes:
        table: a hash of the rows.
        examples: a hash of the examples' values and clusters; None for a table without.
        asked: a hash of the provenance but for the run: another time must not change the bytes of the numbers' files.
    """

    table: str
    examples: str | None
    asked: str


class Examples(NamedTuple):
    """Values of the examples and labels of their clusters; None for what a table does not keep."""

    values: NDArray[np.float32] | None
    clusters: NDArray[np.int64] | None


def save(
    base: Path,
    frame: pd.DataFrame,
    examples: Examples,
    provenance: Mapping[str, Any],
    layout: Layout,
) -> list[Path]:
    """Write a table's files together under `base`, a path without ending; see `HeadTable.save`.

    Both parquet files hold hashes of the whole table, and the provenance one of itself: `load` notices files of two
    tables, and damaged ones.
    """
    per_example = examples.values
    mark = Mark(_rows_hash(frame), _examples_hash(examples), _json_hash(_asked(provenance)))
    contents: dict[str, Content] = {
        # The first file is the last to be renamed: until then `load` reads the old table, or notices new files.
        ".parquet": lambda file: _write_frame(frame, layout, mark, file),
        ".csv": frame.to_csv(lineterminator="\n").encode(),
        ".md": _markdown(base.name, frame).encode(),
        ".provenance.json": (json.dumps({**provenance, _OWN_HASH: _json_hash(provenance)}, indent=2) + "\n").encode(),
    }
    if per_example is not None:
        contents[".per_example.parquet"] = lambda file: _write_examples(
            frame, per_example, examples.clusters, layout, mark, file
        )
    stale = [f"{base}.per_example.parquet"] if per_example is None else []
    return write_together({f"{base}{suffix}": content for suffix, content in contents.items()}, stale)


def load(base: Path, make: Callable[..., T]) -> T:
    """Read the files that `save` wrote under `base`, a path without ending; return what `make` makes of the fields.

    Raises:
        FileNotFoundError: for a file that is missing.
        ValueError: for files that no call wrote, that are damaged, or that are of two tables.
    """
    path = _existing(Path(f"{base}.parquet"))
    try:
        fields = _load(base, _read(path))
    except (KeyError, TypeError, ArithmeticError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Save the table again") from error
    try:
        return make(**fields)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole table: {error}") from error


def _load(base: Path, stored: Any) -> dict[str, Any]:
    """Return the fields of a HeadTable from its main file and the files beside it."""
    if _LAYOUT_KEY not in (stored.schema.metadata or {}):
        raise ValueError(f"{base}.parquet: expected a file that HeadTable.save wrote, got another table")
    layout = Layout(**json.loads(stored.schema.metadata[_LAYOUT_KEY]))
    mark = _mark(stored)
    provenance = _read_provenance(_existing(Path(f"{base}.provenance.json")))
    own_hash, frame = provenance.pop(_OWN_HASH, None), stored.to_pandas()
    if mark is not None:
        if mark.asked != _json_hash(_asked(provenance)):
            raise _of_two_tables(base, ".provenance.json")
        if own_hash != _json_hash(provenance) or mark.table != _rows_hash(frame):
            raise ValueError(f"{base}.parquet or {base}.provenance.json is damaged or edited. Save the table again")
    metrics, shape = list(layout.metrics), layout.shape
    values = frame[metrics].to_numpy(dtype=np.float64).T.reshape(len(metrics), *shape)
    path, per_example, clusters = Path(f"{base}.per_example.parquet"), None, None
    if path.exists() and (mark is None or mark.examples is not None):
        per_example, clusters = _read_examples(base, mark, metrics, shape)
    if layout.squeezed:
        values, per_example = values[0], None if per_example is None else per_example[0]
    return {
        "name": base.name,
        "frame": frame,
        "values": values,
        "per_example": per_example,
        "provenance": provenance,
        "clusters": clusters,
    }


def _rows_hash(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv().encode()).hexdigest()


def _examples_hash(examples: Examples) -> str | None:
    if examples.values is None:
        return None
    digest = hashlib.sha256()
    for array in examples:
        digest.update(b"none" if array is None else f"{array.size}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _json_hash(values: Mapping[str, Any]) -> str:
    """Hash the values, not the bytes: an editor or git may change the white space of a JSON file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _asked(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in OF_THE_RUN}


def _mark(stored: Any) -> Mark | None:
    """Return the mark in a parquet file's metadata; None in files of earlier versions."""
    metadata = stored.schema.metadata or {}
    return Mark(**json.loads(metadata[_TABLE_KEY])) if _TABLE_KEY in metadata else None


def _of_two_tables(base: Path, ending: str) -> ValueError:
    return ValueError(
        f"{base}{ending} and {base}.parquet are of two tables: a save was stopped between its files, or one of them "
        "was replaced or edited. Save the table again, or put the file back that belongs to it"
    )


def _markdown(name: str, frame: pd.DataFrame) -> str:
    shown = marked(frame)
    rows = shown.reset_index().to_markdown(index=False, floatfmt=".4g")
    return "\n\n".join(filter(None, [f"# {name}", rows, footnote(shown)])) + "\n"


def _write_frame(frame: pd.DataFrame, layout: Layout, mark: Mark, file: BinaryIO) -> None:
    import pyarrow as pa

    _write(pa.Table.from_pandas(frame), {_LAYOUT_KEY: layout, _TABLE_KEY: mark}, file)


def _write(table: Any, about: Mapping[bytes, Layout | Mark], file: BinaryIO) -> None:
    """Write a table with checksums of its pages, and facts about it in the metadata."""
    import pyarrow.parquet as pq

    added = {key: json.dumps(value._asdict()).encode() for key, value in about.items()}
    stored = table.replace_schema_metadata({**(table.schema.metadata or {}), **added})
    pq.write_table(stored, file, write_page_checksum=True)


def _read(path: Path, wanted: Sequence[str] | None = None) -> Any:
    """Read a parquet file, or those of its columns that are wanted, and check its pages.

    Raises:
        ValueError: for a file that can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            return file.read(names if wanted is None else [name for name in wanted if name in names])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read as parquet: {error}. Save the table again") from error


def _read_provenance(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON: {error}. Save the table again") from error


def _write_examples(
    frame: pd.DataFrame,
    per_example: NDArray[np.float32],
    clusters: NDArray[np.int64] | None,
    layout: Layout,
    mark: Mark,
    file: BinaryIO,
) -> None:
    import pyarrow as pa

    index, count = frame.index, per_example.shape[-len(layout.shape) - 1]
    tidy: dict[str, Any] = {
        "example": np.repeat(np.arange(count, dtype=np.int32), len(index)),
        "stack": pd.Categorical.from_codes(np.zeros(count * len(index), dtype=np.int8), [index[0][0]]),
    }
    if clusters is not None:
        tidy["cluster"] = np.repeat(clusters, len(index))
    for axis in index.names[1:]:
        tidy[str(axis)] = np.tile(index.get_level_values(axis).to_numpy(dtype=np.int32), count)
    tidy.update(zip(layout.metrics, per_example.reshape(len(layout.metrics), -1), strict=True))
    _write(pa.table(tidy), {_TABLE_KEY: mark}, file)


def _read_examples(base: Path, mark: Mark | None, metrics: Sequence[str], shape: Sequence[int]) -> Examples:
    stored = _read(Path(f"{base}.per_example.parquet"), [*metrics, "cluster"])
    if _mark(stored) != mark:
        raise _of_two_tables(base, ".per_example.parquet")
    if missing := sorted({*metrics} - {*stored.column_names}):
        raise ValueError(f"{base}.per_example.parquet lacks the columns {', '.join(missing)}. Save the table again")
    rows = np.stack([stored[name].to_numpy() for name in metrics])
    labels = stored["cluster"].to_numpy()[:: int(np.prod(shape))] if "cluster" in stored.column_names else None
    examples = Examples(rows.reshape(len(metrics), -1, *shape), labels)
    if mark is not None and mark.examples != _examples_hash(examples):
        raise ValueError(f"{base}.per_example.parquet is damaged. Save the table again")
    return examples


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"expected {path}, found nothing there; HeadTable.save writes it")
    return path


def plain_values(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Copy provenance into plain JSON values, so that it survives saving and loading unchanged.

    Raises:
        ValueError: for a value that JSON can't hold.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, PurePath):
            return value.name  # results are published: no directories of the user's disk
        if hasattr(value, "tolist"):  # NumPy and JAX arrays and numbers
            return value.tolist()
        raise TypeError(f"{value!r} is a {type(value).__name__}")

    try:
        return json.loads(json.dumps(dict(provenance), default=convert, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance: expected finite JSON values, got something else: {error}") from error
