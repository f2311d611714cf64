"""Rows: sums and numbers of values, of single examples, of clusters of them, or of groups of them.

An estimate of a mean and its error needs no more than these. NumPy in float64; NaN marks a missing value.

Dimension key: `E` examples, `R` rows, `G` clusters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from .base import Floats, finite_or_nan


class Rows(NamedTuple):
    """Sum and number of the values in each row, `[R,...]` each; a row without a value has 0 and 0."""

    sums: Floats
    counts: Floats

    @property
    def n(self) -> NDArray[np.int64]:
        """The number of rows with a value, `[...]`."""
        return (self.counts > 0).sum(axis=0)


@checked()
def rows_of(values: ArrayLike, counts: ArrayLike | None = None, clusters: ArrayLike | None = None) -> Rows:
    """Return a row for each example, or for each cluster of them.

    Args:
        values: `[E,...]`, NaN where missing.
        counts: the number of examples whose mean each value is, `[E]` or `[E,...]`; 1 when left out.
        clusters: labels `[E]`.

    Raises:
        ValueError: for no examples, infinity, negative counts, or labels of another length.
    """
    x = finite_or_nan(values, "values")
    number = _counts_like(x, counts)
    rows = Rows(np.where(number > 0, x, 0.0) * number, number)
    return rows if clusters is None else by_cluster(rows, cluster_codes(clusters, len(x)))


def cluster_codes(clusters: ArrayLike, count: int) -> NDArray[np.int64]:
    """Number the clusters in the order of their first example: codes `[E]` from labels `[E]`.

    Raises:
        ValueError: for labels that are missing (NaN, None), or not one for each of `count` examples.
    """
    labels = np.asarray(clusters)
    if labels.shape != (count,):
        raise ValueError(f"clusters: expected one label for each of {count} examples, got shape {list(labels.shape)}")
    if labels.dtype == object:
        labels = np.array([f"{type(label).__name__} {label}" for label in labels])
        missing = np.isin(labels, ("NoneType None", "float nan"))
    else:
        missing = np.isnan(labels) if labels.dtype.kind == "f" else np.zeros(count, bool)
    if missing.any():
        raise ValueError(f"clusters: expected a label for every example, got none for {np.flatnonzero(missing)[:8]}")
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes.reshape(-1)].astype(np.int64)


def by_cluster(rows: Rows, codes_R: NDArray[np.int64]) -> Rows:
    """Add up the rows of each cluster, `[R,...]` to `[G,...]`."""
    order_R = np.argsort(codes_R, kind="stable")
    starts_G = np.searchsorted(codes_R[order_R], np.arange(codes_R.max() + 1))
    return Rows(*(np.add.reduceat(values[order_R], starts_G, axis=0) for values in rows))


def _counts_like(x: Floats, counts: ArrayLike | None) -> Floats:
    """Return the number of examples of each value, 0 where it is missing."""
    if counts is None:
        return (~np.isnan(x)).astype(np.float64)
    number = np.asarray(counts, dtype=np.float64)
    if number.shape == x.shape[:1]:
        number = number.reshape(-1, *[1] * (x.ndim - 1))
    elif number.shape != x.shape:
        number = np.full(1, np.nan)
    if not np.isfinite(number).all() or (number < 0).any():
        raise ValueError(
            f"counts: expected finite numbers from 0 up, of shape {[len(x)]} or {list(x.shape)}, "
            f"got shape {list(np.shape(counts))}, least {number.min(initial=np.inf)}"
        )
    return np.where(np.isnan(x), 0.0, np.broadcast_to(number, x.shape))
