"""How alike heads are: a number for every pair of a stack's heads, with its doubt, and what follows from it.

Dimension key: G rows (examples, or groups of them), L layers, N heads a layer, M = L N heads, T query positions, S key
positions, F features.

Heads are redundant in different senses, which need not agree: they look alike (patterns), they carry alike (values,
outputs), or one can do the other's work (`jaxheads.share`, the test that counts).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.stack import Sites, Stack
from ...progress import progress as show_progress
from ...provenance import environment
from ...statistics import GroupedRows, check_level
from ..patterns.measuring import several
from .comparisons import PAIRS, Pairs

ROWS = 64
"""Examples are kept one by one up to so many, then in groups: each is a number for every pair of heads."""

RESAMPLES = 200

BYTES = 1 << 31
"""All layers' patterns of one example may take so much."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadPairs:
    """A number for every pair of a stack's heads.

    Attributes:
        kind: which number, a key of `PAIRS`.
        values, low, high: `[M,M]`, symmetric; heads in the order layer 0 head 0, layer 0 head 1, …
        shape: layers and heads, (L, N).
        provenance: plain JSON values.
    """

    kind: str
    stack: str
    shape: tuple[int, int]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    provenance: dict[str, Any]

    @cached_property
    def heads(self) -> list[tuple[int, int]]:
        """The heads in their order, as (layer, head)."""
        return [(layer, head) for layer in range(self.shape[0]) for head in range(self.shape[1])]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Tidy, one row a pair: layer, head, other_layer, other_head, value, value_low, value_high."""
        first, second = np.triu_indices(len(self.heads), k=1)
        places = np.array(self.heads)
        columns = ["layer", "head", "other_layer", "other_head"]
        frame = pd.DataFrame(np.concatenate([places[first], places[second]], axis=1), columns=columns)
        for name, part in (("", self.values), ("_low", self.low), ("_high", self.high)):
            frame[f"{self.kind}{name}"] = part[first, second]
        return frame

    @property
    def similarity(self) -> NDArray[np.float64]:
        """From 0 to 1, 1 for a head with itself: the number itself, or of a distance what it lacks to the largest."""
        return PAIRS[self.kind].similarity(self.values)

    @property
    def distance(self) -> NDArray[np.float64]:
        """The number itself where it is a distance, or 1 less the similarity; 0 on the diagonal."""
        apart = self.values.copy() if PAIRS[self.kind].is_distance else 1 - self.similarity
        np.fill_diagonal(apart, 0.0)
        return np.maximum(apart, 0.0)

    def clusters(self, count: int | None = None, *, within: float | None = None) -> NDArray[np.int64]:
        """The number of each head's cluster, `[L,N]`, by average linkage (SciPy); give `count`, or the largest mean
        distance `within` a cluster.

        Raises:
            ValueError: unless exactly one is given.
        """
        if (count is None) == (within is None):
            raise ValueError("clusters are cut at a count, or at a distance: give one of count and within")
        tree = hierarchy.linkage(squareform(self.distance, checks=False), "average")
        limit, criterion = (count, "maxclust") if within is None else (within, "distance")
        return hierarchy.fcluster(tree, limit, criterion).reshape(self.shape) - 1

    def embedding(self, dimensions: int = 2, seed: int = 0) -> NDArray[np.float64]:
        """Places `[L,N,dimensions]` whose distances are near these: multidimensional scaling as Clark et al. 2019 had
        it (metric, the best of 5 starts, up to 1,000 steps; scikit-learn)."""
        from sklearn.manifold import MDS

        options: dict[str, Any] = {"metric": "precomputed", "init": "random", "normalized_stress": False}
        scaling = MDS(dimensions, n_init=5, max_iter=1000, eps=1e-10, random_state=seed, **options)
        return np.asarray(scaling.fit_transform(self.distance)).reshape(*self.shape, dimensions)

    def effective_heads(self) -> NDArray[np.float64]:
        """How many different heads each layer has in effect, `[L]`, from 1 (all alike) to N (none like another).

        exp(−Σ λ log λ) over the eigenvalues λ of the layer's similarities divided by N: the Vendi score (Friedman &
        Dieng 2023, equation 1).
        """
        L, N = self.shape
        blocks = self.similarity.reshape(L, N, L, N)[np.arange(L), :, np.arange(L), :]
        eigenvalues = np.clip(np.linalg.eigvalsh(blocks / N), 0, None)
        eigenvalues /= eigenvalues.sum(axis=1, keepdims=True)
        return np.exp(-(eigenvalues * np.log(np.where(eigenvalues > 0, eigenvalues, 1))).sum(axis=1))

    def nearest(self, *, same_layer: bool = True) -> NDArray[np.int64]:
        """The head most like each, as (layer, head), `[L,N,2]`: what `jaxheads.share` takes."""
        apart = self.distance
        np.fill_diagonal(apart, np.inf)
        layers = np.repeat(np.arange(self.shape[0]), self.shape[1])
        if same_layer:
            if self.shape[1] < 2:
                raise ValueError("a layer of one head has no other: same_layer=False looks in all layers")
            apart = np.where(layers[:, None] == layers[None, :], apart, np.inf)
        return np.array(self.heads)[apart.argmin(axis=1)].reshape(*self.shape, 2)

    def disagreement(self) -> NDArray[np.float64]:
        """Of each layer −1/N² Σ_ij similarity, i = j included, `[L]`: −1 where all heads are alike, −1/N where all are
        orthogonal. Li et al. 2018 (section 3) regularise by it: D_sub with "values", D_pos with "overlap", D_out with
        "outputs"."""
        L, N = self.shape
        return -self.values.reshape(L, N, L, N)[np.arange(L), :, np.arange(L), :].mean(axis=(1, 2))

    def __repr__(self) -> str:
        return f"<HeadPairs {self.kind} of {len(self.heads)} heads ({self.stack})>\n{self.frame.head().to_string()}"


def compare_heads(
    model: Model,
    batch: Batch | Iterable[Batch],
    by: str = "js",
    *,
    stack: str | None = None,
    progress: bool = False,
    seed: int = 0,
    level: float = 0.95,
) -> HeadPairs:
    """How alike every two heads of a stack are, over examples.

    Args:
        batch: one batch or any iterable of batches; examples go through one by one.
        by: a key of `PAIRS`: "js", "js_sum", "cosine" and "overlap" compare patterns, "values" and "outputs" what is
            carried, "cka" what is written.
        seed, level: of the bootstrap over examples (beyond 64, over groups of them), and of its interval.

    Raises:
        ValueError: for an unknown `by`, a batch or stack that does not fit the model, no example, one too
            short for "cka", or texts so long that all layers' patterns of one would take more than 2 GiB.
    """
    if by not in PAIRS:
        raise ValueError(f"heads are compared by one of {', '.join(PAIRS)}; got {by!r}")
    check_level(level)
    part, pairs = model.stack(stack), PAIRS[by]
    rows = GroupedRows(limit=ROWS)
    total = len(batch) if isinstance(batch, Batch) else None
    with show_progress(total, f"comparing {part.layers * part.heads} heads of {model.name}", progress) as advance:
        for one in several(batch, "batch"):
            _check(model, part, one, pairs)
            for example in range(len(one)):
                found = _compared(model.network, one.take([example]), part.name, pairs)
                rows.add(np.asarray(fetch(found), np.float64)[None])
                advance(1)
    if not rows.examples:
        raise ValueError("batch: expected at least one example; the iterable gave none")
    value, low, high = _interval(rows, pairs, level, seed)
    provenance = {
        "model": model.name, "weights": model.identity(), "stack": part.name, "by": by, "examples": rows.examples,
        "level": level, "seed": seed, **environment(),
    }  # fmt: skip
    return HeadPairs(by, part.name, (part.layers, part.heads), value, low, high, provenance)


def _check(model: Model, part: Stack, batch: Batch, pairs: Pairs) -> None:
    model.check(batch)
    shortest = int(np.asarray(part.queries.of(batch).lengths).min())
    if shortest < pairs.least:
        raise ValueError(f"this comparison needs {pairs.least} positions of every example; the shortest has {shortest}")
    T, S = part.queries.count(batch), part.keys.count(batch)
    size = 4 * part.layers * part.heads * T * S
    if size > BYTES:
        raise ValueError(
            f"all patterns of one example with {T} positions take {size / 2**30:.1f} GiB, more than "
            f"{BYTES / 2**30:.0f}: cut the texts, comparing heads needs few tokens of many examples"
        )


@partial(jax.jit, static_argnames=("stack", "pairs"))
def _compared(network: Network, batch: Batch, stack: str, pairs: Pairs) -> Array:
    """One example's row, `[M,M]`."""
    [part] = [one for one in network.stacks if one.name == stack]
    W_O = part.weights.W_O if pairs.needs_output else None

    def read(seen: Sites) -> Mapping[str, Array]:
        kept = {site: seen[site][0] for site in pairs.sites}
        return kept if W_O is None else {**kept, "W_O": W_O[seen["layer"]]}

    kept = forward(network, batch, read={stack: read})[1][stack]
    queries, keys = part.queries.of(batch).mask[0], part.keys.of(batch).mask[0]
    return pairs.function(kept, queries, keys, part.heads)


def _interval(rows: GroupedRows, pairs: Pairs, level: float, seed: int) -> tuple[NDArray[np.float64], ...]:
    """The statistic of the mean row, and its percentile bootstrap over rows."""
    sums, counts = rows.grouped
    value = pairs.of_mean(sums.sum(axis=0) / counts.sum(axis=0), rows.examples)
    if len(sums) < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    weights = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    found = [pairs.of_mean(np.tensordot(w, sums, 1) / np.tensordot(w, counts, 1), rows.examples) for w in weights]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)
