"""Means by token of a number that each position of a stream has for every head.

Dimension key: M heads of a stack, X positions, U different tokens.
"""

import numpy as np
from numpy.typing import NDArray


class TokenMeans:
    """Sums by token so far: of whole numbers, so that no order of the stream changes them.

    Args:
        heads: M.
        unit: what one is worth.
    """

    def __init__(self, heads: int, unit: float):
        self.unit = unit
        self._column: dict[int, int] = {}
        self._sums = np.zeros((heads, 0), np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, ids_X: np.ndarray, values_MX: np.ndarray) -> None:
        """Add positions: the token of each, and its number for every head."""
        if not len(ids_X):
            return
        order = np.argsort(ids_X, kind="stable")
        tokens, first, counts = np.unique(ids_X[order], return_index=True, return_counts=True)
        sums_MU = np.add.reduceat(np.rint(values_MX[:, order]).astype(np.int64), first, axis=1)
        for token in map(int, tokens):
            self._column.setdefault(token, len(self._column))
        if len(self._column) > self._sums.shape[1]:
            more = 2 * len(self._column) - self._sums.shape[1]
            self._sums = np.pad(self._sums, ((0, 0), (0, more)))
            self._counts = np.pad(self._counts, (0, more))
        columns = [self._column[int(token)] for token in tokens]
        self._sums[:, columns] += sums_MU
        self._counts[columns] += counts

    @property
    def ids(self) -> NDArray[np.int64]:
        """The different tokens, in increasing order, `[U]`."""
        return np.array(sorted(self._column), np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Occurrences of each token, `[U]`."""
        return self._counts[self._columns]

    @property
    def means(self) -> NDArray[np.float32]:
        """Mean over each token's occurrences, `[M,U]`."""
        return (self._sums[:, self._columns] * (self.unit / self.counts)).astype(np.float32)

    @property
    def _columns(self) -> list[int]:
        return [self._column[int(token)] for token in self.ids]
