"""A long run for `test_execution` to kill: a stream of batches, measured, its parts kept.

python -m tests.measure.long_run DIRECTORY BATCHES
"""

import sys
from pathlib import Path

import jaxheads as jh
from jaxheads.execution import parts

from ..sweep.long_run import batches, model

METRICS = ("entropy", "induction", "positional_share")


def measured(directory: Path, count: int) -> None:
    """Measure the first batches of the stream, and save the table."""
    jh.measure(model(), batches(count), METRICS, resume=directory / "parts").save(directory)


if __name__ == "__main__":
    parts.SECONDS = 0
    measured(Path(sys.argv[1]), int(sys.argv[2]))
