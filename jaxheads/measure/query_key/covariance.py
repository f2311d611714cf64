"""Contrastive covariance of queries and keys: the directions by which a head tells pairs that match from others.

Dimension key: B examples of a chunk, T query positions, S key positions, L layers, N heads, K key/value heads, H head
dimension, C = 2 kinds of pairs (those that match, the others).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from ...arguments import at_least, between, checked
from ...checks import head_of, whole
from ...execution.batching import is_new
from ...execution.cost import FLOAT
from ...execution.lengths import Lengths
from ...execution.resources import OPTIONS, Options, Resources, shares_options
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack
from ...programs import compiled, to_device
from ...progress import progress as show_progress
from ...provenance import provenance
from ...statistics import GroupedRows
from ...tables import Column, HeadTable
from ..example_chunks import choose_chunks, run_arrays
from ..streams import Batches, each_batch, inputs_of

Floats = NDArray[np.float64]


class Subspace(NamedTuple):
    """Directions of one head, one a column.

    Attributes:
        queries, keys: of unit length, `[H,r]` each: the left and the right singular vectors.
        values: singular values, `[r]`.
    """

    queries: Floats
    keys: Floats
    values: Floats


@dataclass(frozen=True, eq=False, repr=False)
class ContrastCovariance:
    """Contrastive covariances of the queries and keys of every head.

    Attributes:
        table: column `gap`: the mean score of pairs that match minus that of others, before a cap and without biases of
            positions, with its interval over examples.
        covariance: ΔC, the mean of `q kᵀ` over all pairs that match minus that over all others, `[L,N,H,H]`.
        captured: the part of the gap that queries and keys have within the first r directions, `[L,N,H]` for r = 1 … H,
            each half of the examples read by the directions of the other half; in units of the score.
        gap: the gap over all pairs, `[L,N]`, of which `captured` at r = H is nearly the whole.
    """

    table: HeadTable
    covariance: Floats
    captured: Floats
    gap: Floats

    @property
    def values(self) -> Floats:
        """Singular values of ΔC, `[L,N,H]`, the largest first."""
        return np.asarray(np.linalg.svd(self.covariance, compute_uv=False), np.float64)

    @checked(count=at_least(1))
    def subspace(self, layer: int, head: int, count: int) -> Subspace:
        """Return the first directions of one head.

        Raises:
            ValueError: for a head that there is not, or more directions than the head has.
        """
        L, N, H, _ = self.covariance.shape
        head_of((L, N), layer, head)
        whole("count", count, 1, H)
        left, values, right = np.linalg.svd(self.covariance[layer, head])
        return Subspace(left[:, :count], right[:count].T, values[:count])

    @checked(share=between(0, 1))
    def rank(self, share: float = 0.99) -> NDArray[np.int64]:
        """Return the number of directions that hold this share of ΔC's squared norm, `[L,N]`; 0 where ΔC is 0."""
        squares = self.values**2
        total = squares.sum(axis=-1, keepdims=True)
        enough = (squares.cumsum(axis=-1) >= share * total * (1 - 1e-9)).argmax(axis=-1) + 1
        return np.where(total[..., 0] > 0, enough, 0)

    def __repr__(self) -> str:
        return f"<ContrastCovariance of {self.covariance.shape[0] * self.covariance.shape[1]} heads>\n{self.table!r}"


@shares_options()
def contrast_covariance(
    model: Model, batch: Batches, match: str, mismatch: str | None = None, **options: Unpack[Options]
) -> ContrastCovariance:
    """Find the subspaces of queries and keys by which heads tell marked pairs from others (Lee et al. 2602.04752).

    ΔC = E[q kᵀ | match] − E[q kᵀ | mismatch] has the rank of what is compared: a variable with r equally likely
    values that are compared by identity gives r − 1. Queries and keys are those that attention multiplies, rotated.

    Directions fit the examples that chose them: how much of the gap they capture is read on the other half. Halves are
    every second example; of a batch with clusters, every second label.

    Args:
        batch: one batch or any iterable of batches, which is read once.
        match: a mark of pairs `[B,T,S]`, or of keys `[B,S]`, by name: its pairs match, with these weights.
        mismatch: a mark of the pairs that do not. When left out, all other pairs of different positions that a query
            sees, of the queries that see a match (a sliding window does not count).
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a mark that a batch lacks, no example, or no pair of one kind in a half of the examples.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    sums, rows, lengths = _Sums(), GroupedRows(), Lengths(model)
    count = len(inputs_of(model, stack, batch)) if isinstance(batch, Batch) else None
    label = f"contrasting queries and keys of {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(count, label, resources.progress) as advance:
        for current in each_batch(batch, "batch"):
            model.check(current)
            model.check_runs(stack, current)
            [padded] = lengths.alike(inputs_of(model, stack, current), patterns=True)
            _add_batch(resources, model, stack, padded, (match, mismatch), sums, rows, advance)
    if not rows.examples:
        raise ValueError("batch: expected at least one example; the iterable gave none")
    halves_2CLNHH = sums.means()
    scale = _scales(stack)[:, None]
    contrasts = [half[0] - half[1] for half in halves_2CLNHH]
    captured = np.mean([_captured(own, other) for own, other in (contrasts, contrasts[::-1])], axis=0)
    contrast = sums.whole()
    level, seed = (options.get(name, OPTIONS[name][1]) for name in ("level", "seed"))
    about = {"match": match, "mismatch": mismatch, "examples": rows.examples, "level": level, "seed": seed}
    column = Column(*rows.interval(level=level), rows.per_example)
    table = HeadTable.from_columns(
        "contrast_covariance",
        stack.name,
        {"gap": column},
        provenance(model, stack=stack.name, **about),
        squeeze=True,
        clusters=rows.clusters,
    )
    return ContrastCovariance(table, contrast, captured * scale[..., None], _gap(contrast, scale))


class _Sums:
    """Sums of `q kᵀ` so far, by half of the examples and kind of pairs, with the weights of the pairs."""

    def __init__(self) -> None:
        self.products: Any = 0.0
        self.weights: Any = 0.0
        self._numbers: dict[int, int] = {}

    def halves(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the half of each example by its cluster, 0 or 1: they take turns in the stream's order."""
        numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in labels.tolist()]
        return np.array(numbers) % 2

    def add(self, products_2CLNHH: Floats, weights_2C: Floats) -> None:
        """Add a chunk."""
        self.products, self.weights = self.products + products_2CLNHH, self.weights + weights_2C

    def means(self) -> Floats:
        """Return the mean of each half and kind, `[2,C,L,N,H,H]`.

        Raises:
            ValueError: where one has no pair.
        """
        if (self.weights == 0).any():
            half, kind = np.argwhere(self.weights == 0)[0]
            raise ValueError(
                f"expected pairs that match and others in both halves of the examples; half {half} has none that "
                f"{'match' if kind == 0 else 'do not match'}: give more examples"
            )
        return self.products / self.weights[..., None, None, None, None]

    def whole(self) -> Floats:
        """Return ΔC of all examples, `[L,N,H,H]`."""
        match, mismatch = self.products.sum(axis=0) / self.weights.sum(axis=0)[:, None, None, None, None]
        return match - mismatch


def _gap(contrast: Floats, scale: Floats) -> Floats:
    """Return the gap of a contrast in units of the score, `[L,N]`."""
    return np.trace(contrast, axis1=2, axis2=3) * scale


def _captured(chosen: Floats, read: Floats) -> Floats:
    """Return the gap of one contrast within the first directions of another, `[L,N,H]` for 1 … H directions.

    With projections P and R on left and right directions it is E[P q · R k] = Σ_ij (uᵢᵀ ΔC v_j)(uᵢ · v_j).
    """
    left, _, right = np.linalg.svd(chosen)
    v = np.swapaxes(right, -2, -1)
    terms = (np.swapaxes(left, -2, -1) @ read @ v) * (np.swapaxes(left, -2, -1) @ v)
    # Of the sums over squares from the corner only the diagonal is asked for.
    return np.diagonal(terms.cumsum(axis=-2).cumsum(axis=-1), axis1=-2, axis2=-1)


def _scales(stack: Stack) -> Floats:
    """Return each layer's factor on scores, `[L]`."""
    per_block = np.asarray(stack.blocks.attention.scale, np.float64).reshape(-1)
    per_block = per_block if stack.sharing is None or len(per_block) == 1 else per_block[np.asarray(stack.sharing)]
    return np.broadcast_to(per_block, (stack.layers,))


def _add_batch(
    resources: Resources,
    model: Model,
    stack: Stack,
    batch: Batch,
    marks: tuple[str, str | None],
    sums: _Sums,
    rows: GroupedRows,
    advance: Any,
) -> None:
    """Add the chunks of one batch to the sums, and the gaps of its examples to the rows."""
    E, T, S = len(batch), stack.queries.count(batch), stack.keys.count(batch)
    _check_marks(model, batch, marks, (E, T, S))
    first, scale_L = rows.examples, _scales(stack)
    clusters = batch.cluster_labels
    half_E = (first + np.arange(E)) % 2 if clusters is None else sums.halves(clusters)
    network = resources.network(model)

    def compute(examples: np.ndarray) -> dict[str, Array]:
        own = is_new(examples)[:, None] & (half_E[examples][:, None] == np.arange(2))
        chunk = batch.take(examples)
        inputs = chunk.model_inputs, to_device(_pairs(stack, chunk, *marks)), to_device(own, np.float32)
        return _products(network, *resources.devices.examples(inputs), stack.name)

    def add(examples: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        weights_BC = _pairs(stack, batch.take(examples), *marks).sum(axis=(2, 3), dtype=np.float64)
        sums.add(arrays["products"][0], np.stack([weights_BC[half_E[examples] == half].sum(axis=0) for half in (0, 1)]))
        with np.errstate(invalid="ignore", divide="ignore"):
            means_BCLN = arrays["scores"] / weights_BC[:, :, None, None]
        gap_BLN = (means_BCLN[:, 0] - means_BCLN[:, 1]) * scale_L[None, :, None]
        rows.add(np.where(np.isfinite(gap_BLN), gap_BLN, np.nan), None if clusters is None else clusters[examples])
        advance(len(examples))

    layer_bytes = FLOAT * (4 * T * S + 4 * stack.heads * stack.head_size * (T + stack.head_size))
    run_arrays(
        choose_chunks(resources, model, stack, batch, example_bytes=layer_bytes),
        E,
        ("products", "scores"),
        compute,
        add,
        resources=resources,
        journal=resources.journal("contrast_covariance", model, batch, stack.name, *marks, first),
        first=first,
    )


def _check_marks(model: Model, batch: Batch, names: Sequence[str | None], shape: tuple[int, int, int]) -> None:
    """Raise ValueError for a mark that the batch lacks, of another shape than `[B,S]` or `[B,T,S]`, or below 0."""
    marks, (B, T, S) = batch.marks or {}, shape
    for name in names:
        if name is None:
            continue
        if name not in marks:
            raise ValueError(f"the batch has no mark {name!r}; it has {sorted(marks) or 'none'}: Batch(…, marks={{…}})")
        weights = np.asarray(marks[name])
        if weights.shape not in ((B, S), (B, T, S)):
            raise ValueError(f"the mark {name!r} must be {[B, S]} or {[B, T, S]} in {model.name}, got {weights.shape}")
        if (weights < 0).any():
            raise ValueError(f"the mark {name!r} must hold weights of 0 or more")


def _pairs(stack: Stack, batch: Batch, match: str, mismatch: str | None) -> NDArray[np.float32]:
    """Return the weights of pairs that match and of the others, `[B,C,T,S]`; 0 for pairs that a query does not see."""
    queries_BT, keys_BS = (np.asarray(axis.of(batch).mask) for axis in (stack.queries, stack.keys))
    T, marks = queries_BT.shape[1], batch.marks or {}
    visible_BTS = queries_BT[:, :, None] & keys_BS[:, None, :]
    if stack.causal and not stack.is_cross:
        visible_BTS = visible_BTS & np.tri(T, dtype=bool)

    def mark(name: str) -> NDArray[np.float32]:
        weights = np.asarray(marks[name], np.float32)
        return np.where(visible_BTS, weights if weights.ndim == 3 else weights[:, None], 0)

    match_BTS = mark(match)
    if mismatch is not None:
        return np.stack([match_BTS, mark(mismatch)], axis=1)
    other_BTS = visible_BTS & (match_BTS == 0) & (match_BTS > 0).any(axis=2, keepdims=True)
    if not stack.is_cross:
        other_BTS = other_BTS & ~np.eye(T, dtype=bool)
    return np.stack([match_BTS, other_BTS.astype(np.float32)], axis=1)


@partial(compiled, static_argnames=("stack",))
def _products(network: Network, batch: Batch, pairs_BCTS: Array, half_B2: Array, stack: str) -> dict[str, Array]:
    """Return sums of `q kᵀ` of each half, `products` `[1,2,C,L,N,H,H]`, and of `q · k`, `scores` `[B,C,L,N]`."""
    own = network.stack(stack)

    def read(sites: Sites) -> dict[str, Array]:
        q_BTNH, k_BSKH = sites["q"].astype(jnp.float32), sites["k"].astype(jnp.float32)
        seen_BCTKH = jnp.einsum("bcts,bskh->bctkh", pairs_BCTS, k_BSKH)
        seen_BCTNH = jnp.repeat(seen_BCTKH, own.heads // own.kv_heads, axis=3)
        scores_BCN = jnp.einsum("btnh,bctnh->bcn", q_BTNH, seen_BCTNH)
        products = jnp.einsum("bz,btnh,bctni->zcnhi", half_B2, q_BTNH, seen_BCTNH)
        return {"products": products, "scores": scores_BCN}

    read_L = forward(network, batch, (), {stack: read})[1][stack]
    return {
        "products": jnp.moveaxis(read_L["products"], 0, 2)[None],
        "scores": jnp.moveaxis(read_L["scores"], 0, 2),
    }
