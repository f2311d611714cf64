"""Patterns between the words of sentences, without special tokens: of one head, or of all.

Dimension key: B sentences, L layers, N heads, T tokens, t words of a block, W words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...execution.cost import FLOAT
from ...execution.resources import Resources
from ...models.attention.row_reader import RowReader
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...programs import compiled
from ..example_chunks import choose_chunks, run_examples
from ..patterns.word_pooling import OverWords


@dataclass(frozen=True)
class PatternReader:
    """A `RowReader` that keeps the patterns of some heads.

    Attributes:
        shape: sentences, heads that are kept, and words, `[B,n,W]`.
        head: the only head to keep; None for all.
    """

    shape: tuple[int, int, int]
    head: Array | None

    def start(self) -> Array:
        """Return the patterns before any row: zeros, `[B,n,W,W]`."""
        return jnp.zeros((*self.shape, self.shape[-1]))

    def add(self, sums: Array, sites: Mapping[str, Array], first: Array | int) -> Array:
        """Return the patterns with the rows from `first` on."""
        rows_BNtW = sites["pattern"]
        if self.head is not None:
            rows_BNtW = jax.lax.dynamic_slice_in_dim(rows_BNtW, self.head, 1, axis=1)
        return sums.at[:, :, first + jnp.arange(rows_BNtW.shape[2])].set(rows_BNtW, mode="drop")

    def finish(self, sums: Array) -> Array:
        """Return the patterns."""
        return sums


def word_count(batch: Batch) -> int:
    """Return W: the words of the longest sentence of a batch, rounded up, as few programs have it."""
    links = {} if batch.labels is None else batch.labels.links
    # A word at the end may have no piece of its own; what is linked has a row all the same.
    last = max(int(np.asarray(batch.words).max()), *(int(np.asarray(own)[..., :2].max()) for own in links.values()), 0)
    return -(-(last + 1) // 8) * 8


def patterns_of(
    network: Network, batch: Batch, words_BT: Array, stack: Stack, width: int, at: tuple[int, int] | None
) -> Array:
    """Return patterns over words: `[B,W,W]` of the head `at` a layer and head; `[B,L,N,W,W]` of all.

    Attention to a word is the sum over its pieces, from a word the mean; special tokens are left out, so that rows sum
    to less than 1. A word without a token has zeros.
    """
    if at is None:
        return _all_heads()(network, batch.model_inputs, words_BT, stack=stack.name, width=width)
    layer, head = (jnp.asarray(number) for number in at)
    return _one_head()(network, batch.model_inputs, words_BT, layer, head, stack=stack.name, width=width)


def pattern_bytes(stack: Stack, width: int, at: tuple[int, int] | None) -> int:
    """Return the bytes that one sentence's patterns take, beside its forward pass."""
    return FLOAT * width**2 * (3 * stack.heads + stack.layers * (stack.heads if at is None else 1))


def read_patterns(
    resources: Resources,
    model: Model,
    stack: Stack,
    batch: Batch,
    at: tuple[int, int] | None,
    add: Callable[[np.ndarray, np.ndarray], None],
    first: int,
) -> None:
    """Compute the patterns of a batch's sentences, as many at a time as fit in memory.

    Args:
        at: layer and head; None for all heads.
        add: takes the indices of a chunk's examples, and their patterns; see `patterns_of`.
        first: the number of the batch's first sentence.
    """
    width = word_count(batch)

    def compute(examples: np.ndarray) -> Array:
        taken = resources.devices.examples(batch.take(examples).model_inputs)
        words_BT = resources.devices.examples(np.asarray(batch.words)[examples])
        return patterns_of(resources.network(model), taken, words_BT, stack, width, at)

    run_examples(
        choose_chunks(resources, model, stack, batch, example_bytes=pattern_bytes(stack, width, at)),
        len(batch),
        compute,
        add,
        resources=resources,
        journal=resources.journal("word patterns", model, batch.model_inputs, batch.words, stack.name, at, first),
        first=first,
    )


@cache
def _one_head() -> Any:
    def read(
        network: Network, batch: Batch, words_BT: Array, layer: Array, head: Array, *, stack: str, width: int
    ) -> Array:
        return _read(network, batch, words_BT, head, stack, width)[layer, :, 0]

    return compiled(read, static_argnames=("stack", "width"))


@cache
def _all_heads() -> Any:
    def read(network: Network, batch: Batch, words_BT: Array, *, stack: str, width: int) -> Array:
        return _read(network, batch, words_BT, None, stack, width).swapaxes(0, 1)

    return compiled(read, static_argnames=("stack", "width"))


def _read(network: Network, batch: Batch, words_BT: Array, head: Array | None, stack: str, width: int) -> Array:
    """Return the patterns of all layers, `[L,B,n,W,W]`."""
    heads = network.stack(stack).heads
    kept: RowReader = PatternReader((len(words_BT), heads if head is None else 1, width), head)
    # Special tokens have no word, as padding has none: `OverWords` drops both.
    return forward(network, batch, (), {stack: OverWords(kept, words_BT, (len(words_BT), heads, width))})[1][stack]
