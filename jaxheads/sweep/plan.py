"""How a sweep is cut into pieces: large enough to keep the matrix units busy, small enough for memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from ..models.batch import Batch
from ..models.stack import Stack
from ..models.unembedding import PIECE
from ..objectives import Reads

CPU_TOKENS = 1536
"""Tokens a matmul on CPU: XLA's products are fastest near a thousand and slower for very large ones."""

ACCELERATOR_TOKENS = 65_536


@dataclass(frozen=True)
class Chunks:
    """How many examples and how many heads of one layer are run together.

    Attributes:
        examples: examples at a time, with one clean run for each piece.
        heads: edited copies of that piece at a time.
    """

    examples: int
    heads: int

    def example_pieces(self, count: int) -> Iterator[np.ndarray]:
        """Indices of each piece, all of one length: the last repeats its last example."""
        return _pieces(count, self.examples)

    def head_pieces(self, count: int) -> Iterator[np.ndarray]:
        """Head numbers of each piece, all of one length: the last repeats its last head."""
        return _pieces(count, self.heads)


def choose_chunks(stack: Stack, batch: Batch, reads: Reads, *, vocabulary: int, memory: int) -> Chunks:
    """The largest pieces that fit the memory budget and the device's best matmul size; never less than one.

    Args:
        memory: bytes for the activations of one piece, the clean run's cache included.
    """
    examples, T = batch.tokens.shape
    tokens = CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS
    row_bytes = _bytes_a_row(stack, T, reads, vocabulary)
    cache_bytes = 4 * stack.layers * T * (stack.blocks.attention.W_O.shape[-1] + stack.heads * stack.head_size)
    copies = max(1, min(tokens // T, memory // (row_bytes * T + cache_bytes)))
    heads = math.ceil(stack.heads / math.ceil(stack.heads / min(stack.heads, copies)))
    most = max(1, min(examples, copies // heads))
    return Chunks(math.ceil(examples / math.ceil(examples / most)), heads)


def _bytes_a_row(stack: Stack, positions: int, reads: Reads, vocabulary: int) -> int:
    """Bytes of activations a token needs at the widest point of a layer or of the unembedding."""
    model = stack.blocks.attention.W_O.shape[-1]
    widest = max((leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks)), default=model)
    layer = 4 * model + 3 * widest + 3 * stack.heads * (positions + stack.head_size)
    if reads.target is not None:
        columns = PIECE
    else:
        columns = vocabulary if reads.columns is None else reads.columns.shape[1]
    return 4 * max(layer, 2 * columns * reads.rows.shape[1] // positions)


def _pieces(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
