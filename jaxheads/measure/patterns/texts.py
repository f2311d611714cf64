"""The texts of packed examples: each is scored by itself, as if it were an example of its own.

Dimension key: B examples, K texts of an example, E texts of all examples, T positions, t query
positions of a block, S key positions, L layers, N heads, C entries.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch, Positions
from .example import Example, counted, rows_of
from .row_scores import RowScores, Sums

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


@dataclass(frozen=True)
class TextScores(RowScores):
    """A `RowReader` that returns the scores of each text of packed examples, `[B,K,N,C]`.

    A text's own pattern is the whole one where query and key are its: elsewhere the masks leave nothing.

    Attributes:
        segments_BT: the number of the text that each position belongs to.
        texts_BK: as `texts_of` gives them.
    """

    segments_BT: Array
    texts_BK: Array

    def more(self, pattern_BNtS: Array, first: Array | int) -> dict[str, Any]:
        """Return by name each text's sums over the rows from `first` on, with a leading axis K."""
        t = pattern_BNtS.shape[2]
        rows_t = jnp.minimum(first + jnp.arange(t), self.segments_BT.shape[1] - 1)
        segments_Bt = self.segments_BT[:, rows_t]

        def sums(text_B: Array) -> dict[str, Any]:
            return self.row_sums(pattern_BNtS, rows_of(self._own(text_B), first, t))

        nothing = jax.tree.map(lambda sum: jnp.zeros(sum.shape, sum.dtype), jax.eval_shape(sums, self.texts_BK[:, 0]))

        # Of many texts few are within a block of rows: the others are passed over.
        def own_sums(text_B: Array) -> dict[str, Any]:
            return jax.lax.cond((segments_Bt == text_B[:, None]).any(), sums, lambda _: nothing, text_B)

        return jax.lax.map(own_sums, self.texts_BK.T)

    def finish(self, sums: Sums) -> Array:
        """Return the scores of the sums over all rows."""

        def own_scores(text: tuple[Array, dict[str, Any]]) -> Array:
            text_B, own = text
            return self.scores(Sums(own, sums.pattern), self._own(text_B))

        return jnp.moveaxis(jax.lax.map(own_scores, (self.texts_BK.T, sums.metrics)), 0, 1)

    def _own(self, text_B: Array) -> Example:
        own_BT = self.segments_BT == text_B[:, None]
        return counted(self.examples._replace(mask=self.examples.mask & own_BT, whole=None))


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
