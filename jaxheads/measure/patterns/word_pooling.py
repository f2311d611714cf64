"""Pooling of patterns from a tokenizer's pieces to words.

Dimension key: L layers, B batch, N heads, T query positions, S key positions, W words.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import checked
from ...models.inputs.batch import Batch


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
        batch: the batch that was run, as `model.encode` made it of lists of words.

    Raises:
        ValueError: for a batch without words, or patterns of another shape.
    """
    pattern = np.asarray(pattern_LBNTS)
    if batch.words is None:
        raise ValueError("the batch does not say which word each token belongs to: encode lists of words")
    words_BT, mask_BT = np.asarray(batch.words), np.asarray(batch.mask)
    B, T = words_BT.shape
    if pattern.ndim != 5 or pattern.shape[1] != B or pattern.shape[3:] != (T, T):
        raise ValueError(f"patterns must be [layers, {B}, heads, {T}, {T}], got {pattern.shape}")
    return [_pooled(pattern[:, b][..., mask_BT[b], :][..., mask_BT[b]], words_BT[b, mask_BT[b]]) for b in range(B)]


def _pooled(pattern_LNTS: np.ndarray, words_T: np.ndarray) -> WordPattern:
    begins_T = (words_T < 0) | (np.diff(words_T, prepend=-2) != 0)
    starts_W = np.flatnonzero(begins_T)
    pieces_W = np.diff(starts_W, append=len(words_T))
    # A word's pieces are adjacent, so each axis is summed by segments; one product over both costs T to the fourth.
    to_words_LNTW = np.add.reduceat(pattern_LNTS, starts_W, axis=3, dtype=np.float64)
    pooled = np.add.reduceat(to_words_LNTW, starts_W, axis=2) / pieces_W[:, None]
    return WordPattern(pooled, words_T[begins_T])
