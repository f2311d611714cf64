"""Positions that samples of a stack's patterns count, and the bins of their histograms.

Dimension key: B examples, T query positions, S key positions.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ...models.inputs.batch import Batch, Positions
from ...models.stack import Stack

WEIGHT_BINS = 20
"""Equal bins of weights, from 0 to 1."""

_EXACT, _FURTHEST = 16, 4096


def offset_edges() -> np.ndarray:
    """Return the least offset of each bin but the first: one bin an offset up to 16, then bins that double."""
    far = [_EXACT + 1]
    while far[-1] <= _FURTHEST:
        far.append(2 * far[-1] - 1)
    # The bin of the offset -16 begins where that of the next further ones ends: there is one edge for both.
    return np.array([*(1 - np.array(far[::-1])), *range(1 - _EXACT, _EXACT + 1), *far], np.int32)


def offset_labels() -> tuple[str, ...]:
    """Return the name of each bin of offsets ("-1", "17..32"), the one of keys that are not counted last."""
    edges = offset_edges()
    inner = [str(low) if high == low + 1 else f"{low}..{high - 1}" for low, high in pairwise(edges)]
    return (f"..{edges[0] - 1}", *inner, f"{edges[-1]}..", "not counted")


def counted_positions(stack: Stack, batch: Batch, avoid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which queries `[B,T]` and which keys `[B,S]` count.

    Real ones do, but for tokens in `avoid`, an image's special positions, and in a text's self-attention the first
    position, on which heads rest that have nothing to do. In cross-attention the first query alone is left out.
    """
    queries = _counted(stack.queries.of(batch), avoid, stack.queries.kind in ("tokens", "targets"))
    keys = _counted(stack.keys.of(batch), avoid, not stack.is_cross and stack.keys.kind in ("tokens", "targets"))
    for axis, mask in ((stack.queries, queries), (stack.keys, keys)):
        mask[:, : len(axis.specials)] = False
    return queries, keys


def _counted(positions: Positions, avoid: Sequence[int], without_first: bool) -> np.ndarray:
    counted = np.array(positions.mask)
    if positions.ids is not None:
        counted &= ~np.isin(np.asarray(positions.ids), list(avoid))
    if without_first:
        counted &= np.asarray(positions.positions) > 0
    return counted
