"""Pooling of patterns from a tokenizer's pieces to words: of patterns that are there, and within the forward pass.

Attention to a word is the sum over its pieces, attention from a word the mean over its pieces (Clark et al. 2019,
section 4.1): rows still sum to 1, where those of the pieces do. A special token is a word by itself.

Dimension key: L layers, B batch, N heads, T query positions, t query positions of a block, S key positions, W words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import checked
from ...checks import one_of
from ...execution.cost import FLOAT
from ...models.attention.row_reader import RowReader
from ...models.inputs.batch import Batch
from ...models.inputs.query_rows import block_rows
from ...models.stack import Stack
from .row_scores import read_in_blocks

Over = Literal["tokens", "words"]
"""What the rows and keys of a measured pattern are."""


def check_over(over: str, stack: Stack, model: str) -> None:
    """Raise ValueError for an unknown kind of rows, or words of a stack whose queries and keys are not tokens."""
    one_of("over", over, get_args(Over))
    if over == "words" and (stack.is_cross or stack.queries.kind != "tokens"):
        kinds = f"{stack.queries.kind} look at {stack.keys.kind}"
        raise ValueError(f"words are of tokens that look at each other; in the {stack.name} of {model} {kinds}")


class WordPattern(NamedTuple):
    """Attention between the words of one example.

    Attributes:
        pattern: `[L,N,W,W]`; rows sum to 1, or to less where heads have learnt sinks.
        words: the number of each word, `[W]`; -1 for a special token, which is a word by itself.
    """

    pattern: np.ndarray
    words: np.ndarray


@checked()
def pool_words(pattern_LBNTS: ArrayLike, batch: Batch) -> list[WordPattern]:
    """Return the attention between words of each example (Clark et al. 2019, section 4.1).

    Attention to a word is the sum over its pieces, attention from a word the mean over its pieces: rows still sum to 1,
    where those of the pieces do.

    Args:
        pattern_LBNTS: patterns as `run` captures them, `[L,B,N,T,S]`, of self-attention.
        batch: the batch that was run, as `model.encode` made it of lists of words or of sentences.

    Raises:
        ValueError: for a batch without words, or patterns of another shape.
    """
    pattern = np.asarray(pattern_LBNTS)
    words = Words.of(batch)
    B, T = words.of_tokens.shape
    if pattern.ndim != 5 or pattern.shape[1] != B or pattern.shape[3:] != (T, T):
        raise ValueError(f"patterns must be [layers, {B}, heads, {T}, {T}], got {pattern.shape}")
    return [_pooled(pattern[:, b], words.of_tokens[b], words.numbers[b]) for b in range(B)]


def _pooled(pattern_LNTS: np.ndarray, word_T: np.ndarray, numbers_W: np.ndarray) -> WordPattern:
    W = word_T.max() + 1
    member_TW = (word_T[:, None] == np.arange(W)).astype(np.float64)
    to_words_LNTW = pattern_LNTS.astype(np.float64) @ member_TW
    from_words_WT = (member_TW / member_TW.sum(axis=0)).T
    return WordPattern(from_words_WT @ to_words_LNTW, numbers_W[:W])


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a batch's examples, in the order of their first pieces.

    Attributes:
        of_tokens: index of the word that each token belongs to, from 0, `[B,T]`; -1 for padding.
        numbers: the number of each word among its example's own, `[B,W]`; -1 for special tokens, -2 beyond the last.
    """

    of_tokens: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, batch: Batch) -> "Words":
        """Return the words of a batch that was encoded from words or sentences.

        Raises:
            ValueError: for a batch that does not say which word its tokens belong to, or holds several texts.
        """
        if batch.words is None:
            raise ValueError(
                "the batch does not say which word each token belongs to: encode lists of words, or "
                "jaxheads.data.Sentences"
            )
        if batch.segments is not None:
            raise ValueError("examples of packed texts have no words of their own: leave pack out")
        words_BT, mask_BT = np.asarray(batch.words), np.asarray(batch.mask)
        of_tokens_BT, rows = np.full(words_BT.shape, -1), []
        for own_T, words_T, mask_T in zip(of_tokens_BT, words_BT, mask_BT, strict=True):
            # A number comes only once. Special tokens have numbers of their own, below 0.
            keys = np.where(words_T < 0, -1 - np.arange(len(words_T)), words_T)[mask_T]
            order = list(dict.fromkeys(keys.tolist()))
            index = {key: number for number, key in enumerate(order)}
            own_T[mask_T] = [index[key] for key in keys.tolist()]
            rows.append([max(key, -1) for key in order])
        # A few widths only: each would be a program of its own.
        W = min(-(-max(map(len, rows)) // 8) * 8, words_BT.shape[1])
        return cls(of_tokens_BT, np.array([row + [-2] * (W - len(row)) for row in rows]))

    @property
    def present(self) -> np.ndarray:
        """Which words there are, special tokens among them, bool `[B,W]`."""
        return self.numbers >= -1

    def pattern_bytes(self, heads: int) -> int:
        """Return the bytes of one example's pattern between words in one layer, and of the sums that it is made of."""
        return 3 * FLOAT * heads * self.numbers.shape[1] ** 2

    def pooled(self, values_BT: ArrayLike, axis: int = 1) -> np.ndarray:
        """Return whether any piece of each word has a mark: `[B,W]` of `[B,T]`; of pairs, along one axis."""
        values, W = np.moveaxis(np.asarray(values_BT), axis, 1), self.numbers.shape[1]
        result = np.zeros((len(values), W, *values.shape[2:]), values.dtype)
        examples, tokens = np.nonzero(self.of_tokens >= 0)
        np.maximum.at(result, (examples, self.of_tokens[examples, tokens]), values[examples, tokens])
        return np.moveaxis(result, 1, axis)

    def batch(self, batch: Batch) -> Batch:
        """Return a batch whose positions are the words: what metrics of patterns over words are scored by.

        Its tokens are numbers of the words, equal for words of equal pieces; marks are those that any piece has.
        """
        ids_BT, spelt = np.asarray(batch.tokens), {}
        tokens = np.zeros(self.numbers.shape, np.int32)
        for row, words_T, ids_T in zip(tokens, self.of_tokens, ids_BT, strict=True):
            for word in range(words_T.max() + 1):
                pieces = tuple(ids_T[words_T == word].tolist())
                row[word] = spelt.setdefault(pieces, len(spelt))
        marks = {}
        for name, mark in (batch.marks or {}).items():
            pooled = self.pooled(mark)
            marks[name] = pooled if pooled.ndim == 2 else self.pooled(pooled, axis=2)
        return Batch(tokens, self.present, clusters=batch.clusters, marks=marks or None)


@dataclass(frozen=True)
class OverWords:
    """A `RowReader` that hands the pattern between words to another one, some rows at a time.

    The pattern between the words of one layer is there while that layer is read.

    Attributes:
        reader: the other one; its rows and keys are words.
        word_BT: index of each token's word; -1 for padding.
        shape: examples, heads and words, `[B,N,W]`.
    """

    reader: RowReader
    word_BT: Array
    shape: tuple[int, int, int]

    def start(self) -> Array:
        """Return the pattern before any row: zeros."""
        B, N, W = self.shape
        return jnp.zeros((B, N, W, W))

    def add(self, sums: Array, sites: Mapping[str, Array], first: Array | int) -> Array:
        """Return the pattern between words with the shares of the query rows from `first` on."""
        pattern_BNtS, W = sites["pattern"].astype(jnp.float32), self.shape[2]
        t, T = pattern_BNtS.shape[2], self.word_BT.shape[1]
        rows_t = first + jnp.arange(t)
        word_Bt = jnp.where(rows_t < T, jnp.take(self.word_BT, rows_t, axis=1, mode="clip"), -1)

        def pool(pattern_NtS: Array, word_t: Array, word_S: Array) -> Array:
            # Segments beyond the last one are dropped.
            word_S, word_t = (jnp.where(words < 0, W, words) for words in (word_S, word_t))
            count_W = jax.ops.segment_sum(jnp.ones_like(word_S, jnp.float32), word_S, W)
            to_words_WNt = jax.ops.segment_sum(jnp.moveaxis(pattern_NtS, 2, 0), word_S, W)
            from_words = jax.ops.segment_sum(jnp.moveaxis(to_words_WNt, 2, 0), word_t, W)  # [W queries, W keys, N]
            return jnp.moveaxis(from_words, 2, 0) / jnp.maximum(count_W, 1.0)[None, :, None]

        return sums + jax.vmap(pool)(pattern_BNtS, word_Bt, self.word_BT)

    def finish(self, sums: Array) -> Any:
        """Return what the other reader returns of the pattern between words."""
        return read_in_blocks(self.reader, {"pattern": sums}, block_rows(*sums.shape))
