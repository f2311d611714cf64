"""Similarity of heads: a number for every pair of a stack's heads, with its interval, and the groups that follow.

Dimension key: G rows (examples, or groups of them), L layers, N heads a layer, M = L N heads, T query positions, S key
positions.

Heads are redundant in different senses, which need not agree: they have similar patterns, they carry similar values or
outputs, or one can do the other's work (`jaxheads.share`, the test that counts).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import NDArray

from ...arguments import at_least, checked
from ...execution.cost import FLOAT
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...extras import extra
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ...statistics import GroupedRows, jackknife_interval
from ...statistics.base import Floats
from ...view import View, matrix
from ..example_chunks import choose_chunks, run_examples
from ..streams import Batches, each_batch, inputs_of
from .comparisons import COMPARISONS, Comparison

ROWS = 64
"""Examples that are kept one by one, then in groups: each is a number for every pair of heads."""

BYTES = 1 << 31
"""Most bytes of all layers' patterns of one example."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadPairs:
    """A number for every pair of a stack's heads.

    Attributes:
        kind: the comparison, a key of `COMPARISONS`.
        values, low, high, n: `[M,M]`, symmetric; heads in the order layer 0 head 0, layer 0 head 1, … `n` is the number
            of independent examples.
        shape: layers and heads, (L, N).
        provenance: plain JSON values.
    """

    kind: str
    stack: str
    shape: tuple[int, int]
    values: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]
    provenance: dict[str, Any]

    @cached_property
    def heads(self) -> list[tuple[int, int]]:
        """The heads in their order, as (layer, head)."""
        return [(layer, head) for layer in range(self.shape[0]) for head in range(self.shape[1])]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Tidy table, one row a pair: layer, head, other_layer, other_head, the kind with `_low`, `_high`, `_n`."""
        first, second = np.triu_indices(len(self.heads), k=1)
        heads = np.array(self.heads)
        columns = ["layer", "head", "other_layer", "other_head"]
        frame = pd.DataFrame(np.concatenate([heads[first], heads[second]], axis=1), columns=columns)
        for suffix, numbers in (("", self.values), ("_low", self.low), ("_high", self.high), ("_n", self.n)):
            frame[f"{self.kind}{suffix}"] = numbers[first, second]
        return frame.assign(model=self.provenance.get("model", ""))

    def view(self) -> View:
        """Show the number of every pair of heads as a matrix."""
        names = [f"{layer}.{head}" for layer, head in self.heads]
        model = self.provenance.get("model")
        title = f"{self.kind} between heads{f' of {model}' if model else ''}"
        return matrix(self.values, rows=names, columns=names, axes=("head", "other head"), label=self.kind, title=title)

    @property
    def similarity(self) -> Floats:
        """Similarity from 0 to 1, `[M,M]`: a distance is subtracted from its largest value and scaled."""
        return COMPARISONS[self.kind].similarity(self.values)

    @property
    def distance(self) -> Floats:
        """Distance, `[M,M]`, 0 on the diagonal: a similarity is subtracted from 1."""
        distance = self.values.copy() if COMPARISONS[self.kind].is_distance else 1 - self.similarity
        np.fill_diagonal(distance, 0.0)
        return np.maximum(distance, 0.0)

    @checked(count=at_least(1))
    def clusters(self, count: int | None = None, *, within: float | None = None) -> NDArray[np.int64]:
        """Return the number of each head's cluster, int `[L,N]`, by average linkage (SciPy).

        Args:
            count: the number of clusters.
            within: the largest mean distance within a cluster, in place of `count`.

        Raises:
            ValueError: unless exactly one is given.
        """
        if (count is None) == (within is None):
            raise ValueError("clusters are cut at a count, or at a distance: give one of count and within")
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform

        tree = hierarchy.linkage(squareform(self.distance, checks=False), "average")
        limit, criterion = (count, "maxclust") if within is None else (within, "distance")
        return hierarchy.fcluster(tree, limit, criterion).reshape(self.shape) - 1

    @checked(dimensions=at_least(1))
    def embedding(self, dimensions: int = 2, seed: int = 0) -> Floats:
        """Return coordinates `[L,N,dimensions]` whose distances are near these: multidimensional scaling.

        With the settings of Clark et al. 2019: metric, the best of 5 starts, up to 1,000 steps (scikit-learn).

        Raises:
            MissingExtraError: without scikit-learn.
        """
        manifold = extra("sklearn.manifold", "multidimensional scaling")
        options: dict[str, Any] = {"metric": "precomputed", "init": "random", "normalized_stress": False}
        scaling = manifold.MDS(dimensions, n_init=5, max_iter=1000, eps=1e-10, random_state=seed, **options)
        return np.asarray(scaling.fit_transform(self.distance)).reshape(*self.shape, dimensions)

    def effective_heads(self) -> Floats:
        """Return the effective number of different heads of each layer, `[L]`, from 1 (all alike) to N (all different).

        exp(−Σ λ log λ) over the eigenvalues λ of the layer's similarities divided by N: the Vendi score (Friedman &
        Dieng 2023, equation 1).
        """
        L, N = self.shape
        blocks_LNN = self.similarity.reshape(L, N, L, N)[np.arange(L), :, np.arange(L), :]
        eigenvalues = np.clip(np.linalg.eigvalsh(blocks_LNN / N), 0, None)
        eigenvalues /= eigenvalues.sum(axis=1, keepdims=True)
        return np.exp(-(eigenvalues * np.log(np.where(eigenvalues > 0, eigenvalues, 1))).sum(axis=1))

    @checked()
    def nearest(self, *, same_layer: bool = True) -> NDArray[np.int64]:
        """Return the head most similar to each, as (layer, head), int `[L,N,2]`: an input of `jaxheads.share`.

        Raises:
            ValueError: for layers of one head, unless other layers are searched, too.
        """
        distance = self.distance
        np.fill_diagonal(distance, np.inf)
        layers = np.repeat(np.arange(self.shape[0]), self.shape[1])
        if same_layer:
            if self.shape[1] < 2:
                raise ValueError("a layer of one head has no other: same_layer=False looks in all layers")
            distance = np.where(layers[:, None] == layers[None, :], distance, np.inf)
        return np.array(self.heads)[distance.argmin(axis=1)].reshape(*self.shape, 2)

    def disagreement(self) -> Floats:
        """Return −1/N² Σ_ij similarity of each layer, i = j included, `[L]`.

        −1 where all heads are alike, −1/N where all are orthogonal. Li et al. 2018 (section 3) regularise by it: D_sub
        with "values", D_pos with "overlap", D_out with "outputs".
        """
        L, N = self.shape
        return -self.values.reshape(L, N, L, N)[np.arange(L), :, np.arange(L), :].mean(axis=(1, 2))

    def __repr__(self) -> str:
        return f"<HeadPairs {self.kind} of {len(self.heads)} heads ({self.stack})>\n{self.frame.head().to_string()}"


@shares_options()
def compare_heads(model: Model, batch: Batches, by: str = "js", **options: Unpack[Options]) -> HeadPairs:
    """Compare every two heads of a stack: their mean similarity or distance over examples.

    Args:
        batch: one batch or any iterable of batches.
        by: a key of `COMPARISONS`: "js", "js_sum", "cosine" and "overlap" compare patterns, "values" and "outputs" what
            heads carry, "cka" what they write.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume. Beyond 64
            examples the jackknife is over groups of them.

    Raises:
        ValueError: for an unknown `by`, a batch or stack that does not fit the model, no example, one too
            short for "cka", or texts so long that all layers' patterns of one would take more than 2 GiB.
    """
    if by not in COMPARISONS:
        raise ValueError(f"heads are compared by one of {', '.join(COMPARISONS)}; got {by!r}")
    resources, stack, comparison = Resources.of(options), model.stack(options.get("stack")), COMPARISONS[by]
    level, seed = options.get("level", 0.95), options.get("seed", 0)
    rows, lengths = GroupedRows(limit=ROWS), Lengths(model)
    total = len(inputs_of(model, stack, batch)) if isinstance(batch, Batch) else None
    label = f"comparing {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(total, label, resources.progress) as advance:

        def add(examples: np.ndarray, pairs_BMM: np.ndarray, current: Batch) -> None:
            rows.add(pairs_BMM, current.take(examples).cluster_labels)
            advance(len(examples))

        for current in each_batch(batch, "batch"):
            _check(model, stack, current, comparison)
            [padded] = lengths.alike(inputs_of(model, stack, current), patterns=True)
            _compare(
                resources,
                model,
                stack,
                padded,
                by,
                rows.examples,
                partial(add, current=current),
            )
    if not rows.examples:
        raise ValueError("batch: expected at least one example; the iterable gave none")
    interval = jackknife_interval(
        lambda mean: comparison.of_mean(mean, rows.examples), rows.grouped, within=comparison.range, level=level
    )
    about = provenance(model, stack=stack.name, by=by, examples=rows.examples, level=level, seed=seed)
    return HeadPairs(by, stack.name, (stack.layers, stack.heads), *interval, about)


def _compare(
    resources: Resources, model: Model, stack: Stack, batch: Batch, by: str, first: int, add: Callable[..., None]
) -> None:
    """Compare heads on every example of a batch, and add each chunk's pairs; `first` is its first example's number."""
    comparison, network = COMPARISONS[by], resources.network(model)

    def compute(examples: np.ndarray) -> Array:
        return _compared(network, resources.devices.examples(batch.take(examples)), stack.name, comparison)

    layers, heads = (index.reshape(-1) for index in np.indices((stack.layers, stack.heads)))
    run_examples(
        choose_chunks(resources, model, stack, batch, example_bytes=_example_bytes(stack, batch, comparison)),
        len(batch),
        compute,
        add,
        resources=resources,
        journal=resources.journal("compare_heads", model, batch, repr((stack.name, by)), first),
        coordinates={
            "layer": layers[None, :, None],
            "head": heads[None, :, None],
            "other_layer": layers[None, None, :],
            "other_head": heads[None, None, :],
        },
        first=first,
    )


def _example_bytes(stack: Stack, batch: Batch, comparison: Comparison) -> int:
    """Return the bytes that all layers' sites of one example take, with what they are compared by."""
    T, S, M = stack.queries.count(batch), stack.keys.count(batch), stack.layers * stack.heads
    sites = stack.layers * sum(math.prod(stack.site_shape(site, 1, T, S)) for site in comparison.sites)
    # A comparison holds the sites normalised, a mixture and its logarithm; HSIC products of one head with all.
    products = M * stack.head_size**2 if comparison.needs_output else 0
    return FLOAT * (4 * sites + products + 2 * M**2)


def _check(model: Model, stack: Stack, batch: Batch, comparison: Comparison) -> None:
    """Raise ValueError for a batch that does not fit the model, or is too short or too long to compare heads on."""
    model.check(batch)
    model.check_runs(stack, batch)
    shortest = int(np.asarray(stack.queries.of(batch).lengths).min())
    if shortest < comparison.least:
        raise ValueError(
            f"this comparison needs {comparison.least} positions of every example; the shortest has {shortest}"
        )
    T, S = stack.queries.count(batch), stack.keys.count(batch)
    size = 4 * stack.layers * stack.heads * T * S
    if size > BYTES:
        raise ValueError(
            f"all patterns of one example with {T} positions take {size / 2**30:.1f} GiB, more than "
            f"{BYTES / 2**30:.0f}: cut the texts, comparing heads needs few tokens of many examples"
        )


@partial(compiled, static_argnames=("stack", "comparison"))
def _compared(network: Network, batch: Batch, stack: str, comparison: Comparison) -> Array:
    """Return the numbers of every example, `[B,M,M]`."""
    compared = network.stack(stack)

    def read(sites: Sites) -> Mapping[str, Array]:
        kept = {site: sites[site] for site in comparison.sites}
        if "pattern" in kept and compared.sinks is not None:
            kept["to_sink"] = jnp.maximum(1 - kept["pattern"].astype(jnp.float32).sum(axis=-1), 0.0)
        return kept

    kept = forward(network, batch, read={stack: read})[1][stack]
    outputs = {"W_O": compared.weights.W_O} if comparison.needs_output else {}

    def compare(sites: Mapping[str, Array], queries_T: Array, keys_S: Array) -> Array:
        return comparison.function({**sites, **outputs}, queries_T, keys_S, compared.heads)

    masks = compared.queries.of(batch).mask, compared.keys.of(batch).mask
    return jax.vmap(compare, in_axes=(1, 0, 0))(kept, *masks)
