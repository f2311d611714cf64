"""Equal chunks of work: large enough to keep the matrix units busy, small enough for memory, halved when it ends.

All chunks of one computation have one length, so that one compilation serves them all: the last chunk is filled up with
copies of its last index.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from ..programs import platform

T = TypeVar("T")

Later = Callable[[], T]
"""Function that waits for work that was sent to the devices, and returns its result."""

CPU_TOKENS = 1536
"""Tokens a matrix product on CPU: XLA's products are fastest near a thousand and slower for very large ones."""

ACCELERATOR_TOKENS = 8192
"""Tokens a matrix product on a GPU or TPU: its matrix units are full, and more would not fit its memory on the chip."""


class OutOfMemory(Exception):
    """The device has no memory left for a chunk of work."""


@dataclass(frozen=True)
class Chunks:
    """The numbers of examples and of their edited copies that run together.

    Attributes:
        examples: examples a chunk; each chunk has one unedited run.
        copies: edited copies of a chunk's examples that run together.
        multiples: what the two must be multiples of, so that they split evenly over devices.
        step: what the numbers of copies are rounded up to a multiple of, so that few of them have programs.
    """

    examples: int
    copies: int = 1
    multiples: tuple[int, int] = (1, 1)
    step: int = 1

    @classmethod
    def fitting(
        cls,
        examples: int,
        copies: int = 1,
        *,
        tokens: int,
        example_bytes: int = 0,
        copy_bytes: int,
        memory: int,
        multiples: tuple[int, int] = (1, 1),
        together: int | None = None,
    ) -> "Chunks":
        """Return the largest chunks that fit memory and the device's best matrix products; never less than one example.

        Args:
            examples, copies: how many there are in all.
            tokens: that one copy of one example sends through a layer.
            example_bytes, copy_bytes: that an example holds once, and that each of its copies holds beside.
            memory: bytes on each device.
            multiples: the numbers of devices that examples and copies are split over.
            together: tokens that run together at best; left out, as many as the device's products have at best.
        """
        data, questions = multiples
        best = matmul_tokens() if together is None else together
        most = max(1, min(best // max(1, tokens), (memory - example_bytes) // copy_bytes))
        size = round_up(even_size(copies, questions * most), questions)
        # Where all copies of one example run together and leave memory over, more examples share it.
        example_most = memory // (example_bytes + size // questions * copy_bytes)
        each = max(1, min(most * questions // size, example_most))
        rounded = rounded_size(even_size(examples, data * each), data * each)
        return cls(round_up(rounded, data), size, multiples)

    def example_chunks(self, count: int) -> Iterator[np.ndarray]:
        """Yield the indices of each chunk of `count` examples; the last repeats its last example."""
        return equal_chunks(count, self.examples)

    def copy_chunks(self, count: int) -> Iterator[np.ndarray]:
        """Yield the numbers of the copies that run together; the last chunk repeats its last copy."""
        return equal_chunks(count, self.copies_together(count, self.copies))

    def copies_together(self, count: int, most: int) -> int:
        """Return the size of equal chunks of `count` copies, at most `most` of them and split evenly over devices."""
        size = even_size(count, most)
        # Where memory has ended at a step, sizes below it are their own.
        size = round_up(size, self.step) if most >= self.copies else size
        return round_up(size, self.multiples[1])

    def filled(self, examples: np.ndarray) -> np.ndarray:
        """Return these indices with the last repeated until they split evenly over devices."""
        missing = -len(examples) % self.multiples[0]
        return np.concatenate([examples, np.repeat(examples[-1:], missing)])

    def fewer(self, copies: int) -> int:
        """Return about half as many copies; as many where fewer can't be split evenly."""
        return round_up(max(1, copies // 2), self.multiples[1]) if copies > self.multiples[1] else copies


def equal_chunks(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield chunks of the indices 0 … count − 1, all of length `size`; the last repeats its last index."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def is_new(chunk: np.ndarray) -> np.ndarray:
    """Return which entries of a chunk are no filler, bool `[B]`: sums over a chunk must count each example once."""
    return np.diff(chunk, prepend=-1) > 0


def run_chunks(chunks: Chunks, count: int, run: Callable[[np.ndarray], Iterable[Later[Any]]]) -> None:
    """Run one chunk after the other, one step behind the devices; chunks that raise `OutOfMemory` are halved.

    Args:
        run: from the indices of a chunk's examples to steps. Each step has sent work to the devices when it is yielded.
            It is called, in order, after the next one has been sent: the host prepares, and uses results, while devices
            compute.

    Raises:
        MemoryError: if not even one example fits the device.
    """
    waiting: deque[np.ndarray] = deque(chunks.example_chunks(count))
    late: tuple[np.ndarray, Later[Any]] | None = None
    while waiting or late is not None:
        examples = failed = waiting.popleft() if waiting else None
        try:
            for step in [None] if examples is None else run(examples):
                if late is not None:
                    (failed, finish), late = late, None
                    finish()
                failed, late = examples, None if examples is None or step is None else (examples, step)
        except OutOfMemory as error:
            # What was sent after the chunk that failed is sent again, after its halves.
            if examples is not None and failed is not examples:
                waiting.appendleft(examples)
            late = None if late is None or late[0] is failed else late
            waiting.extendleft(reversed(_halves(chunks, failed, error)))
        except KeyboardInterrupt:
            if late is not None:
                late[1]()  # sent before the stop, so that it counts as done
            raise


def in_turn(steps: Iterable[Later[Any]]) -> Later[None]:
    """Call each step after the next one was sent; return a function that calls the last."""
    late = None
    for step in steps:
        if late is not None:
            late()
        late = step

    def last() -> None:
        if late is not None:
            late()

    return last


def _halves(chunks: Chunks, examples: np.ndarray | None, error: OutOfMemory) -> list[np.ndarray]:
    real = np.unique([] if examples is None else examples)
    if len(real) == 1:
        raise MemoryError("the work on one example does not fit the device's memory") from error
    return [chunks.filled(half) for half in np.array_split(real, 2)]


@contextmanager
def detecting_out_of_memory() -> Iterator[None]:
    """Raise `OutOfMemory` for XLA's RESOURCE_EXHAUSTED; let other errors through."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # A process that went on with smaller chunks would leave the others of a distributed run waiting.
        if "RESOURCE_EXHAUSTED" not in str(error) or jax.process_count() > 1:
            raise
        raise OutOfMemory from error


def matmul_tokens() -> int:
    """Return how many tokens one matrix product should have on this device."""
    return CPU_TOKENS if platform() == "cpu" else ACCELERATOR_TOKENS


def even_size(count: int, most: int) -> int:
    """Return the size of equal chunks of `count`, each at most `most`: 10 by at most 4 is 4, 9 by at most 8 is 5."""
    return math.ceil(count / math.ceil(count / max(1, min(count, most))))


def rounded_size(size: int, most: int) -> int:
    """Return the next of a few sizes, at most `most`: 1 to 8, then four to each doubling (10, 12, 14, 16, 20, …).

    Every number of examples would be a shape of its own, with programs of its own to compile.
    """
    return min(most, round_up(size, 1 << max(0, (size - 1).bit_length() - 3)))


def round_up(count: int, multiple: int) -> int:
    """Return the next multiple that is not below `count`."""
    return -(-count // multiple) * multiple
