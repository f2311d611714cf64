"""What a resume directory holds, whichever files it is in."""

from pathlib import Path

import pandas as pd
import pyarrow.dataset


def files(directory: Path, kind: str = "*") -> list[Path]:
    """The files of one kind of parts."""
    return sorted(directory.glob(f"*/{kind}/*.parquet"))


def example_count(directory: Path, kind: str) -> int:
    """The number of examples that all parts of one kind have."""
    return len(set(frame(directory, kind)["example"].tolist()))


def assert_equal_parts(first: Path, second: Path, kind: str) -> None:
    """Check that two directories hold the same parts of one kind."""
    pd.testing.assert_frame_equal(frame(first, kind), frame(second, kind))


def frame(directory: Path, kind: str) -> pd.DataFrame:
    """All parts of one kind, of all questions, in the order of their columns."""
    found = pyarrow.dataset.dataset(list(map(str, files(directory, kind)))).to_table().to_pandas()
    return found.sort_values(list(found.columns)[:-1], ignore_index=True)
