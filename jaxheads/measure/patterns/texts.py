"""The texts of packed examples: each is scored by itself, as if it were an example of its own.

Dimension key: B examples, K texts of an example, E texts of all examples, T positions, L layers, N heads, C entries.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch, Positions
from .example import Example
from .metric import Metric, evaluate, packed

NONE = -(2**31)
"""Number in place of a text, where an example has fewer texts than others."""


def texts_of(batch: Batch) -> np.ndarray | None:
    """Return the numbers of each example's texts in their order, `[B,K]`, NONE after the last; None if not packed."""
    if batch.segments is None:
        return None
    examples = zip(np.asarray(batch.segments), np.asarray(batch.mask), strict=True)
    rows = [list(dict.fromkeys(own[real].tolist())) for own, real in examples]
    # A few widths only: each would be a program of its own.
    most = 1 << (max(map(len, rows)) - 1).bit_length()
    return np.array([row + [NONE] * (most - len(row)) for row in rows], np.int32)


def scores_of_layer(
    metrics: Sequence[Metric], pattern_BNTS: Array, examples: Example, segments_BT: Array | None, texts_BK: Array | None
) -> Array:
    """Return the scores of one layer as `packed` has them, `[B,N,C]`, or of each text `[B,K,N,C]`."""
    if texts_BK is None:
        return packed(evaluate(metrics, pattern_BNTS, examples))

    # A text's own pattern is the whole one where query and key are its: elsewhere the masks leave nothing.
    def of_text(text_B: Array) -> Array:
        own = examples._replace(mask=examples.mask & (segments_BT == text_B[:, None]))
        return packed(evaluate(metrics, pattern_BNTS, own))

    return jnp.moveaxis(jax.lax.map(of_text, texts_BK.T), 0, 1)


def separate(
    batch: Batch, positions: Positions, scores_BLKNC: np.ndarray
) -> tuple[Positions, np.ndarray, np.ndarray | None]:
    """Return the positions of all texts, their scores `[E,L,N,C]` and, for a batch with clusters, their numbers."""
    texts_BK = texts_of(batch)
    assert texts_BK is not None, "only packed batches have texts"
    example_E, text_E = np.nonzero(texts_BK != NONE)  # of a chunk: perhaps fewer texts than the whole batch's K
    numbers_E, scores = texts_BK[example_E, text_E], np.moveaxis(scores_BLKNC, 2, 1)
    own_ET = np.asarray(batch.segments)[example_E] == numbers_E[:, None]
    real_ET = np.asarray(positions.mask)[example_E] & own_ET
    apart = Positions(jnp.asarray(real_ET), None if positions.ids is None else positions.ids[example_E])
    return apart, scores[example_E, text_E], None if batch.clusters is None else numbers_E
