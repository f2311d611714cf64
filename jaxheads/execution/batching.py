"""How a sweep is cut into pieces: large enough to keep the matrix units busy, small enough for memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from ..sweep.exact.plan import Plan, Sizes

CPU_TOKENS = 1536
"""Tokens a matmul on CPU: XLA's products are fastest near a thousand and slower for very large ones."""

ACCELERATOR_TOKENS = 65_536


@dataclass(frozen=True)
class Chunks:
    """How many examples, and how many edited copies of them, are run together.

    Attributes:
        examples: at a time, with one clean run for each piece.
        copies: edited copies of that piece at a time.
        multiples: what the two must be multiples of, to be split evenly over devices.
    """

    examples: int
    copies: int
    multiples: tuple[int, int] = (1, 1)

    def example_pieces(self, count: int) -> Iterator[np.ndarray]:
        """Indices of each piece, all of one length: the last repeats its last example."""
        return _pieces(count, self.examples)

    def copy_pieces(self, count: int) -> Iterator[np.ndarray]:
        """Numbers of the copies of each piece, all of one length: the last repeats its last copy."""
        return _pieces(count, up(even(count, self.copies), self.multiples[1]))

    def filled(self, examples: np.ndarray) -> np.ndarray:
        """These examples, the last repeated until they can be split evenly."""
        missing = -len(examples) % self.multiples[0]
        return np.concatenate([examples, np.repeat(examples[-1:], missing)])

    def fewer(self, copies: int) -> int:
        """About half as many copies; the same where fewer can't be split evenly."""
        return up(max(1, copies // 2), self.multiples[1]) if copies > self.multiples[1] else copies


def choose_chunks(
    sizes: "Sizes", steps: Sequence["Plan"], examples: int, *, memory: int, multiples: tuple[int, int] = (1, 1)
) -> Chunks:
    """The largest pieces that fit the memory budget and the device's best matmul size; never less than one.

    Args:
        memory: bytes for the activations of one piece on one device, the clean run's cache included.
        multiples: over how many devices examples, and over how many edited copies are split.
    """
    most, copies_in_all = max(map(len, steps)), sum(map(len, steps))
    tokens = sum(len(step) * (sizes.positions - step.site.first) for step in steps) / copies_in_all
    room = min(matmul_tokens() // max(1, round(tokens)), memory // (sizes.copied + sizes.cached))
    together = math.prod(multiples) * max(1, room)
    copies = up(even(most, together), multiples[1])
    return Chunks(up(even(examples, max(1, together // copies)), multiples[0]), copies, multiples)


def matmul_tokens() -> int:
    """How many tokens one matrix product should have on this device."""
    return CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS


def even(count: int, most: int) -> int:
    """The length of equal pieces of `count`, each at most `most` long."""
    return math.ceil(count / math.ceil(count / max(1, min(count, most))))


def up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def _pieces(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
