"""The five kinds of self-attention maps of Kovaleva et al. 2019 (section 4.1), told apart by rules.

They had 400 maps labelled by hand and trained a network on them; the rules here were fixed on maps made for each kind.

Dimension key: T positions, F first positions of a second block.
"""

import jax.numpy as jnp
from jax import Array

from .example import Example
from .metric import Scored
from .positions import TINY

CLASSES = ("vertical", "diagonal", "vertical+diagonal", "block", "heterogeneous")

BAND, COLUMNS = 1, 3
"""Width of a diagonal on either side, and the number of columns of a vertical map."""

EXPLAINED, PART, WITHIN = 0.4, 0.15, 0.85
"""Least shares of all attention: of band and columns together, of either to be seen, and of two blocks."""


def pattern_class(pattern_TS: Array, example: Example) -> Scored:
    """Membership of a map in each of CLASSES, 0 or 1, `[5]`.

    The three fullest columns and the band of ±1 about the diagonal hold at least 0.4 of all attention beyond what
    uniform attention has there: then it is vertical, diagonal, or both where either holds 0.15. Else, where two blocks
    along the diagonal (neither smaller than a quarter) hold 0.85: block. Else heterogeneous. The table holds each
    head's most frequent class, as an index into CLASSES, and the share of examples in that class. Where heads have
    learnt sinks, each query's attention to keys counts as 1.
    """
    A_TT = jnp.where(example.pairs, pattern_TS, 0.0)
    n = jnp.maximum(example.mask.sum(dtype=jnp.float32), 1.0)
    # Shares are of the attention that keys get: a learnt sink's is left out.
    A_TT = A_TT / jnp.maximum(1 - example.to_sink(A_TT), TINY)[:, None]
    near_TT = jnp.abs(example.offsets) <= BAND
    column_T = jnp.where(near_TT, 0.0, A_TT).sum(axis=0) / n
    fullest_T = column_T >= jnp.sort(column_T)[-COLUMNS:][0]
    vertical = jnp.where(fullest_T[None, :], A_TT, 0.0).sum() / n - COLUMNS / n
    diagonal = jnp.where(near_TT & ~fullest_T[None, :], A_TT, 0.0).sum() / n - (2 * BAND + 1) / n
    explained = vertical + diagonal >= EXPLAINED
    both = (vertical >= PART) & (diagonal >= PART)
    block = _block_share(A_TT, example, n) >= WITHIN
    index = jnp.where(explained, jnp.where(both, 2, jnp.where(vertical >= diagonal, 0, 1)), jnp.where(block, 3, 4))
    return (jnp.arange(5) == index).astype(jnp.float32), jnp.full(5, example.mask.any())


def _block_share(A_TT: Array, example: Example, n: Array) -> Array:
    """Return the largest share of all attention that two blocks along the diagonal can hold."""
    # Row f: which positions are in the first block, where the second begins at f.
    first_FT = example.positions[None, :] < jnp.arange(A_TT.shape[0])[:, None]
    start_F = jnp.arange(A_TT.shape[0]).astype(jnp.float32)
    from_first_FT = first_FT.astype(jnp.float32) @ A_TT
    within_F = jnp.where(first_FT, from_first_FT, 0.0).sum(axis=1)
    from_second_FT = (~first_FT & example.mask[None, :]).astype(jnp.float32) @ A_TT
    within_F = within_F + jnp.where(first_FT, 0.0, from_second_FT).sum(axis=1)
    return jnp.where((start_F >= n / 4) & (start_F <= 3 * n / 4), within_F, 0.0).max() / n
