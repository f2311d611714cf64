"""Values of a stream of examples in bounded memory: kept one by one up to a limit, then in groups.

NumPy in float64; NaN marks a missing value.

Dimension key: `E` examples.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from .base import Floats, Interval, finite_or_nan, ratio
from .means import Range, interval_of
from .rows import Rows, by_cluster, cluster_codes


class GroupedRows:
    """A stream of examples in bounded memory, with its exact mean and an interval.

    Up to `limit` examples, every row is one example (`per_example`). The next example makes neighbouring rows merge in
    pairs: a row is then the sum of a group of 2 examples, later of 4, 8, …. So a long stream has between `limit / 2`
    and `limit` rows. The result depends on the order of the examples, not on their division into batches.

    The interval over groups is valid: means of g independent examples are independent with variance s² / g, so the
    mean of E / g of them has variance s² / E for every g. Grouping costs precision of the estimate of s, of relative
    size 1 / sqrt(2 (rows − 1)): 2 % for 1024 rows. (Batch means: Law & Kelton, Simulation Modeling and Analysis,
    section 9.5.)

    With clusters, beyond `limit` examples a row is the sum of all examples whose cluster's label has one hash: whole
    clusters, chosen at random, however often they come back. Their number is then an estimate (see `_Distinct`).
    """

    @checked()
    def __init__(self, limit: int = 2048):
        if limit < 2:
            raise ValueError(f"limit: expected at least 2 rows, got {limit}; fewer give no interval")
        self.limit = limit
        self.shares = True
        self._examples = 0
        self._group = 1
        self._sums: list[Floats] = []
        self._counts: list[NDArray[np.int64]] = []
        self._labels: list[int] = []
        self._buckets: dict[int, int] = {}
        self._clusters: _Distinct | None = None

    @checked()
    def add(self, values: ArrayLike, clusters: ArrayLike | None = None) -> None:
        """Add examples, `[E,...]`; E may be 0.

        Args:
            clusters: integer labels `[E]`, in all calls or in none.

        Raises:
            ValueError: for infinity, another shape, or clusters in some of the calls only.
        """
        x = finite_or_nan(values, "values", empty=True)
        if self._sums and x.shape[1:] != self._sums[0].shape:
            raise ValueError(
                f"values: expected examples of shape {list(self._sums[0].shape)}, like those added before, "
                f"got {list(x.shape[1:])}"
            )
        labels = self._checked_labels(x, clusters)
        known = ~np.isnan(x)
        self.shares &= bool(np.isin(x[known], (0.0, 1.0)).all())
        for row, count, label in zip(np.where(known, x, 0.0), known.astype(np.int64), labels, strict=True):
            self._add_one(row, count, label)

    @property
    def examples(self) -> int:
        """Number of examples added."""
        return self._examples

    @property
    def rows(self) -> int:
        """Number of rows: single examples, or groups of merged ones."""
        return len(self._sums)

    @property
    def per_example(self) -> Floats | None:
        """The single examples, `[E,...]` float64 with NaN; None once they are merged."""
        if self._group > 1:
            return None
        sums, counts = self._stacked()
        return np.where(counts > 0, sums, np.nan)

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """The examples' cluster labels, `[E]`; None without clusters, or once examples are merged."""
        return np.array(self._labels, np.int64) if self._clusters is not None and self._group == 1 else None

    @property
    def grouped(self) -> Rows:
        """The rows that an interval is computed of: clusters where there are any, else examples or groups of them."""
        rows = self._stacked()
        return rows if self._clusters is None else by_cluster(rows, cluster_codes(self._labels, len(self._labels)))

    @property
    def n(self) -> NDArray[np.int64]:
        """The number of independent examples (or clusters) with a value, `[...]`."""
        counts = self._stacked().counts
        if self._clusters is None:
            return counts.sum(axis=0).astype(np.int64)
        return self.grouped.n if self._group == 1 else np.where(counts.sum(axis=0) > 0, self._clusters.count, 0)

    def mean(self) -> Floats:
        """Return the mean over all values, `[...]`; NaN for a cell without one."""
        sums, counts = self.grouped
        return ratio(sums.sum(axis=0), counts.sum(axis=0))

    @checked()
    def interval(self, *, level: float = 0.95, within: Range | None = None) -> Interval:
        """Return the mean with its interval over rows; `mean_interval` explains both, and NaN.

        Args:
            within: the least and the largest value of the mean, numbers or arrays `[...]`.
        """
        share = self.shares and (within is None or np.array_equal(np.asarray(within), (0, 1)))
        interval = interval_of(self.grouped, level=level, within=within, share=share, single=self._clusters is None)
        return interval._replace(n=self.n)

    def _checked_labels(self, x: Floats, clusters: ArrayLike | None) -> list[Any]:
        if self._examples and len(x) and (clusters is None) != (self._clusters is None):
            raise ValueError("clusters: expected them with every batch or with none; give each batch its `clusters`")
        if clusters is None:
            return [None] * len(x)
        labels = np.asarray(clusters)
        if labels.shape != (len(x),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"clusters: expected an integer for each of {len(x)} examples, got {labels.dtype} of shape "
                f"{list(labels.shape)}"
            )
        self._clusters = _Distinct() if self._clusters is None else self._clusters
        return labels.tolist()

    def _add_one(self, row: Floats, count: NDArray[np.int64], label: int | None) -> None:
        if self._examples == self._group * self.limit:
            self._merge()
        if label is not None and self._clusters is not None:
            self._clusters.add(label)
            self._add_labelled(row, count, label)
        elif self._examples % self._group:
            self._sums[-1] = self._sums[-1] + row
            self._counts[-1] = self._counts[-1] + count
        else:
            self._sums.append(row)
            self._counts.append(count)
        self._examples += 1

    def _add_labelled(self, row: Floats, count: NDArray[np.int64], label: int) -> None:
        bucket = label if self._group == 1 else _hash(label) % self.limit
        if self._group > 1 and bucket in self._buckets:
            index = self._buckets[bucket]
            self._sums[index] = self._sums[index] + row
            self._counts[index] = self._counts[index] + count
            return
        self._buckets[bucket] = len(self._sums)
        self._sums.append(row)
        self._counts.append(count)
        self._labels.append(bucket)

    def _merge(self) -> None:
        if self._clusters is None:
            self._sums, self._counts = _pairs(self._sums), _pairs(self._counts)
            self._group *= 2
        elif self._group == 1:
            rows, labels, self._group = self._stacked(), self._labels, 2
            self._sums, self._counts, self._labels, self._buckets = [], [], [], {}
            for row, count, label in zip(*rows, labels, strict=True):
                self._add_labelled(row, count.astype(np.int64), label)

    def _stacked(self) -> Rows:
        if not self._sums:
            raise ValueError("expected at least one example, got none: call add first")
        return Rows(np.stack(self._sums), np.stack(self._counts).astype(np.float64))


class _Distinct:
    """Number of distinct labels of a stream in half a megabyte, by linear counting (Whang et al. 1990).

    Exact but for collisions of hashes: to 0.1 % up to ten million labels.
    """

    BITS = 1 << 22

    def __init__(self) -> None:
        self._seen = np.zeros(self.BITS // 8, np.uint8)

    def add(self, label: int) -> None:
        byte, bit = divmod(_hash(label) % self.BITS, 8)
        self._seen[byte] |= 1 << bit

    @property
    def count(self) -> int:
        """The estimated number of labels."""
        empty = self.BITS - int(np.bitwise_count(self._seen).sum())
        return round(-self.BITS * np.log(max(empty, 1) / self.BITS))


def _hash(label: int) -> int:
    """Return a label's hash of 64 bits, equal in every process."""
    return int.from_bytes(hashlib.blake2b(str(label).encode(), digest_size=8).digest(), "little")


def _pairs(rows: list[Any]) -> list[Any]:
    return [rows[index] + rows[index + 1] if index + 1 < len(rows) else rows[index] for index in range(0, len(rows), 2)]
