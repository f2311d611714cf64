"""HeadTables on disk: parquet for programs, csv and md for people, json for provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import Content, write_together
from .counts import footnote, marked

_LAYOUT_KEY = b"jaxheads"


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
    """Write a table's files together under `base`, a path without ending; see `HeadTable.save`."""
    contents: dict[str, Content] = {
        ".parquet": lambda file: _write_frame(frame, layout, file),
        ".csv": frame.to_csv(lineterminator="\n").encode(),
        ".md": _markdown(base.name, frame).encode(),
        ".provenance.json": (json.dumps(provenance, indent=2) + "\n").encode(),
    }
    per_example = examples.values
    if per_example is not None:
        contents[".per_example.parquet"] = lambda file: _write_examples(
            frame, per_example, examples.clusters, layout, file
        )
    written = write_together({f"{base}{suffix}": content for suffix, content in contents.items()})
    if per_example is None:  # else `load` would read the examples of an earlier table of this name
        Path(f"{base}.per_example.parquet").unlink(missing_ok=True)
    return written


def load(base: Path) -> dict[str, Any]:
    """Read the files that `save` wrote under `base`, a path without ending, as the fields of a HeadTable."""
    import pyarrow.parquet as pq

    stored = pq.read_table(_existing(Path(f"{base}.parquet")))
    if _LAYOUT_KEY not in (stored.schema.metadata or {}):
        raise ValueError(f"{base}.parquet: expected a file that HeadTable.save wrote, got another table")
    layout = Layout(**json.loads(stored.schema.metadata[_LAYOUT_KEY]))
    provenance = json.loads(_existing(Path(f"{base}.provenance.json")).read_text(encoding="utf-8"))
    frame = stored.to_pandas()
    metrics, shape = list(layout.metrics), layout.shape
    values = frame[metrics].to_numpy(dtype=np.float64).T.reshape(len(metrics), *shape)
    path = Path(f"{base}.per_example.parquet")
    per_example, clusters = _read_examples(path, metrics, shape) if path.exists() else Examples(None, None)
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


def _markdown(name: str, frame: pd.DataFrame) -> str:
    shown = marked(frame)
    rows = shown.reset_index().to_markdown(index=False, floatfmt=".4g")
    return "\n\n".join(filter(None, [f"# {name}", rows, footnote(shown)])) + "\n"


def _write_frame(frame: pd.DataFrame, layout: Layout, file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = pa.Table.from_pandas(frame)
    metadata = {**(stored.schema.metadata or {}), _LAYOUT_KEY: json.dumps(layout._asdict()).encode()}
    pq.write_table(stored.replace_schema_metadata(metadata), file)


def _write_examples(
    frame: pd.DataFrame,
    per_example: NDArray[np.float32],
    clusters: NDArray[np.int64] | None,
    layout: Layout,
    file: BinaryIO,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    pq.write_table(pa.table(tidy), file)


def _read_examples(path: Path, metrics: Sequence[str], shape: Sequence[int]) -> Examples:
    import pyarrow.parquet as pq

    labelled = "cluster" in pq.read_schema(path).names
    stored = pq.read_table(path, columns=[*metrics, *(["cluster"] if labelled else [])])
    rows = np.stack([stored[name].to_numpy() for name in metrics])
    labels = stored["cluster"].to_numpy()[:: int(np.prod(shape))] if labelled else None
    return Examples(rows.reshape(len(metrics), -1, *shape), labels)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"expected {path}, found nothing there; HeadTable.save writes it")
    return path
