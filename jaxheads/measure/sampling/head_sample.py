"""One example as one head sees it, and numbers by token."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TokenScores:
    """A number of each token for every head, its mean over the token's occurrences.

    Attributes:
        ids: the different tokens, `[U]`.
        n: occurrences of each that count, `[U]`.
        values: `[L,N,U]`.
    """

    ids: NDArray[np.int64]
    n: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeadSample:
    """One example as one head sees it.

    Attributes:
        kind: "top", or "bucket 0" (least scores) and on.
        example: its index in the stream.
        score: the largest weight between counted positions.
        query, key: the positions of that weight.
        queries, keys: token ids at the query and key positions, padding left out; None where positions are no tokens.
        top_keys: of each query the positions of the keys with its largest weights, `[T,k]`; -1 beyond the keys it sees.
        top_weights: these weights, `[T,k]`, the largest first.
        key_count: number of keys, padding left out.
        is_self: whether the keys are the queries' own positions.
    """

    kind: str
    example: int
    score: float
    query: int
    key: int
    queries: NDArray[np.int64] | None = field(repr=False)
    keys: NDArray[np.int64] | None = field(repr=False)
    top_keys: NDArray[np.int32] = field(repr=False)
    top_weights: NDArray[np.float32] = field(repr=False)
    key_count: int = field(repr=False)
    is_self: bool = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of queries and of keys."""
        return len(self.top_keys), self.key_count

    def pattern(self) -> NDArray[np.float32]:
        """Return the pattern `[T,S]` with these weights, and 0 for all others."""
        pattern_TS = np.zeros(self.shape, np.float32)
        rows, _ = seen = np.nonzero(self.top_keys >= 0)
        pattern_TS[rows, self.top_keys[seen]] = self.top_weights[seen]
        return pattern_TS

    def strongest(self) -> NDArray[np.float32]:
        """Return the largest weight that each key gets from another position, `[S]`."""
        pattern_TS = self.pattern()
        if self.is_self:
            np.fill_diagonal(pattern_TS, 0)
        return pattern_TS.max(axis=0)
