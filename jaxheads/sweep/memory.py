"""Never out of memory: where the device has no room for a piece of work, it is cut in halves, and the run goes on."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from ..execution.batching import Chunks


class OutOfMemory(Exception):
    """The device has no room for a piece of work."""


@contextmanager
def memory_runs_out() -> Iterator[None]:
    """Tells the device's want of memory from all other errors."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or jax.process_count() > 1:
            raise  # one process that went on with smaller pieces would leave the others waiting
        raise OutOfMemory from error


def each_piece(chunks: Chunks, count: int, run: Callable[[np.ndarray], None]) -> None:
    """Run pieces of `count` examples one after the other, given their indices; halves of those that do not fit.

    Raises:
        MemoryError: if not even one example fits the device.
    """
    waiting = deque(chunks.example_pieces(count))
    while waiting:
        examples = waiting.popleft()
        try:
            run(examples)
        except OutOfMemory as error:
            kept = np.unique(examples)
            if len(kept) == 1:
                raise MemoryError("the work on one example does not fit the device's memory") from error
            waiting.extendleft(reversed([chunks.filled(half) for half in np.array_split(kept, 2)]))
