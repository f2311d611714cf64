"""HeadTables on disk: parquet for programs, csv and md for people, json for provenance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import Content, write_together

if TYPE_CHECKING:
    from .table import HeadTable

_LAYOUT = b"jaxheads"  # key in the parquet file's metadata: metrics and the grid's shape, which columns can't hold


def save(table: "HeadTable", directory: Path) -> list[Path]:
    """Write a table's files together; see `HeadTable.save`."""
    base = directory / table.name
    contents: dict[str, Content] = {
        ".parquet": lambda file: _write_frame(table, file),
        ".csv": table.frame.to_csv(lineterminator="\n").encode(),
        ".md": _markdown(table).encode(),
        ".provenance.json": (json.dumps(table.provenance, indent=2) + "\n").encode(),
    }
    if table.per_example is not None:
        contents[".per_example.parquet"] = lambda file: _write_examples(table, file)
    written = write_together({f"{base}{suffix}": content for suffix, content in contents.items()})
    if table.per_example is None:  # else `load` would read the examples of an earlier table of this name
        Path(f"{base}.per_example.parquet").unlink(missing_ok=True)
    return written


def load(base: Path) -> dict[str, Any]:
    """Read the files that `save` wrote under `base`, a path without ending, as the fields of a HeadTable."""
    import pyarrow.parquet as pq

    stored = pq.read_table(_existing(Path(f"{base}.parquet")))
    if _LAYOUT not in (stored.schema.metadata or {}):
        raise ValueError(f"{base}.parquet: expected a file that HeadTable.save wrote, got another table")
    layout = json.loads(stored.schema.metadata[_LAYOUT])
    provenance = json.loads(_existing(Path(f"{base}.provenance.json")).read_text(encoding="utf-8"))
    frame = stored.to_pandas()
    metrics, shape = layout["metrics"], layout["shape"]
    values = frame[metrics].to_numpy(dtype=np.float64).T.reshape(len(metrics), *shape)
    examples = Path(f"{base}.per_example.parquet")
    per_example = _read_examples(examples, metrics, shape) if examples.exists() else None
    if layout["squeezed"]:
        values, per_example = values[0], None if per_example is None else per_example[0]
    return {
        "name": base.name,
        "frame": frame,
        "values": values,
        "per_example": per_example,
        "provenance": provenance,
    }


def _markdown(table: "HeadTable") -> str:
    rows = table.frame.reset_index().to_markdown(index=False, floatfmt=".4g")
    return f"# {table.name}\n\n{rows}\n"


def _write_frame(table: "HeadTable", file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    squeezed = table.values.ndim == len(table.shape)
    layout = {"metrics": table.metrics, "shape": [int(size) for size in table.shape], "squeezed": squeezed}
    stored = pa.Table.from_pandas(table.frame)
    metadata = {**(stored.schema.metadata or {}), _LAYOUT: json.dumps(layout).encode()}
    pq.write_table(stored.replace_schema_metadata(metadata), file)


def _write_examples(table: "HeadTable", file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.per_example is None or table.examples is None:
        raise ValueError(f"{table.name}: expected a table with examples, got one without")
    index, count = table.frame.index, table.examples
    tidy: dict[str, Any] = {
        "example": np.repeat(np.arange(count, dtype=np.int32), len(index)),
        "stack": pd.Categorical.from_codes(np.zeros(count * len(index), dtype=np.int8), [table.stack]),
    }
    for axis in index.names[1:]:
        tidy[str(axis)] = np.tile(index.get_level_values(axis).to_numpy(dtype=np.int32), count)
    tidy.update(zip(table.metrics, table.per_example.reshape(len(table.metrics), -1), strict=True))
    pq.write_table(pa.table(tidy), file)


def _read_examples(path: Path, metrics: Sequence[str], shape: Sequence[int]) -> NDArray[np.float32]:
    import pyarrow.parquet as pq

    stored = pq.read_table(path, columns=list(metrics))
    rows = np.stack([stored[name].to_numpy() for name in metrics])
    return rows.reshape(len(metrics), -1, *shape)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"expected {path}, found nothing there; HeadTable.save writes it")
    return path
