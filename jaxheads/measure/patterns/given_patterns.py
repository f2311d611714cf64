"""Measures of attention patterns that are given as arrays, from any framework.

Dimension key: E examples of one input, B examples of a chunk, T query positions, S key positions, L layers, N heads, C
entries of all metrics.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import as_array, booleans, shown
from ...execution.batching import Chunks, Later, detecting_out_of_memory, run_chunks
from ...execution.cost import FLOAT
from ...execution.resources import DEFAULT_MEMORY
from ...models.inputs.batch import Batch, Positions
from ...models.inputs.query_rows import block_rows
from ...programs import compiled
from ...progress import progress as show_progress
from ...tables import HeadTable
from .compiler_options import lean_options
from .example import Example, counted
from .metric import Metric, check_functions, check_marks, fits_positions
from .registry import METRICS, resolve
from .row_scores import RowScores, read_in_blocks, score_bytes
from .score_accumulator import ScoreAccumulator

Patterns = ArrayLike | Sequence[Any] | Iterable[Mapping[str, Any]]

FIELDS = ("patterns", "mask", "tokens", "key_mask", "marks", "pixels", "clusters")
"""What each input of a stream may have."""


@checked(memory=at_least(1))
def measure_patterns(
    patterns: Any,
    mask: ArrayLike | None = None,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    *,
    tokens: ArrayLike | None = None,
    key_mask: ArrayLike | None = None,
    marks: Mapping[str, ArrayLike] | None = None,
    pixels: ArrayLike | None = None,
    causal: bool = False,
    sums_to_one: bool = True,
    name: str = "patterns",
    stack: str = "attention",
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> HeadTable:
    """Measure attention patterns from anywhere as `jh.measure` measures a model's: one row a head, one column a metric.

        jh.measure_patterns(output.attentions, inputs["attention_mask"], tokens=inputs["input_ids"])  # of transformers

    A null that needs patterns alone is one more call: other `tokens`, shuffled `marks`, or the patterns of random
    weights; `jh.Evidence` takes both tables.

    Args:
        patterns: `[L,E,N,T,S]`, or a list of `[E,N,T,S]`, one a layer: arrays of NumPy, JAX, PyTorch or what else
            converts to NumPy's or has `__dlpack__`. Or a stream: an iterable of mappings, each with `patterns` and what
            belongs to them of `mask tokens key_mask marks pixels clusters`; layers and heads are those of the first.
        mask: which queries are real, `[E,T]`; all when left out. Of self-attention these are the keys, too.
        metrics: as in `jh.measure`; when left out, all that the positions allow: those that need token ids need
            `tokens`, cross-attention and images have fewer.
        tokens: token ids of the queries, `[E,T]`.
        key_mask: of cross-attention, which keys are real, `[E,S]`. Where T and S differ all are, when left out.
        marks: by name, labels of keys `[E,S]` or of pairs `[E,T,S]`, which metrics read.
        pixels: of an image's patches, row and column of each position in pixels, `[T,2]`; NaN for special tokens.
        causal: refuse patterns in which a real query looks at a later key.
        sums_to_one: refuse patterns in which a real query's weights on real keys do not sum to 1, or are negative.
            False takes any finite numbers, such as norms, gated attention, or what a learnt sink leaves.
        name: of the model, for the table.
        stack: of the heads, for the table's index.
        clusters: labels `[E]` of examples that depend on each other.
        level, seed, memory, progress: as in `jh.measure`.

    Returns:
        A table as that of `jh.measure`.

    Raises:
        ValueError: for arrays of other shapes, NaN or infinity at real positions, rows that do not sum to 1, attention
            to later keys where it is causal; for an unknown metric, or one that lacks ids, an order or a mark.
    """
    fields = (patterns, mask, tokens, key_mask, marks, pixels, clusters)
    inputs = _inputs(dict(zip(FIELDS, fields, strict=True)))
    given = next(inputs, None)
    if given is None:
        raise ValueError("patterns: expected at least one input; the iterable gave none (a generator is read once)")
    chosen = _chosen(metrics, given)
    scores, digest, shape = ScoreAccumulator(chosen), hashlib.sha256(), given.grid
    total = len(given.batch) if isinstance(patterns, np.ndarray | Sequence) else None
    with show_progress(total, f"measuring {shape[0] * shape[1]} heads of {name}", progress) as advance:
        while given is not None:
            if given.grid != shape:
                raise ValueError(f"patterns: expected {shape} layers and heads in every input, got {given.grid}")
            given.check(chosen, causal=causal, sums_to_one=sums_to_one)
            for examples, scores_BLNC in _scores(given, chosen, memory):
                taken = given.batch.take(examples)
                scores.add(
                    Positions(taken.mask, taken.tokens if given.has_ids else None), scores_BLNC, taken.cluster_labels
                )
                advance(len(examples))
            for layer in given.layers:
                digest.update(np.ascontiguousarray(layer).reshape(-1).view(np.uint8).data)
            given = next(inputs, None)
    about = {"of": "weights" if sums_to_one else "given numbers", "rows_sum_to_one": sums_to_one, "causal": causal}
    source = _Source(name, f"patterns sha256 {digest.hexdigest()}")
    squeeze = isinstance(metrics, str | Metric)
    return scores.table(source, stack, about, level=level, seed=seed, squeeze=squeeze)


@dataclass(frozen=True)
class _Source:
    """The name of given patterns and their hash, in the place of a model's."""

    name: str
    content: str

    def identity(self) -> str:
        return self.content


@dataclass(frozen=True)
class _Given:
    """Patterns of one input, each layer `[E,N,T,S]`, and their positions.

    Attributes:
        batch: mask, tokens (zeros where there are none), marks of the queries, and clusters.
        key_mask: `[E,S]` of cross-attention, else None.
        pixels: `[T,2]` of patches, else None.
        has_ids: whether tokens were given.
    """

    layers: list[np.ndarray]
    batch: Batch
    key_mask: np.ndarray | None
    pixels: np.ndarray | None
    has_ids: bool
    marks: Mapping[str, Array] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of layers and of heads."""
        return len(self.layers), self.layers[0].shape[1]

    @property
    def kind(self) -> str:
        """The kind of positions, in the words of `Axis`."""
        return "patches" if self.pixels is not None else "tokens" if self.has_ids else "frames"

    @property
    def keys(self) -> np.ndarray:
        """Which keys are real, bool `[E,S]`."""
        return np.asarray(self.batch.mask) if self.key_mask is None else self.key_mask

    def examples(self, index: np.ndarray) -> Example:
        """Return these examples as metrics see them."""
        taken = self.batch.take(index)
        marks = {name: mark[index] for name, mark in self.marks.items()} or None
        if self.pixels is not None:
            centres_BT2 = np.broadcast_to(np.nan_to_num(self.pixels), (len(index), *self.pixels.shape))
            patch_BT = np.broadcast_to(np.isfinite(self.pixels).all(axis=1), centres_BT2.shape[:2])
            return Example(None, taken.mask, None, jnp.asarray(centres_BT2, jnp.float32), jnp.asarray(patch_BT), marks)
        keys = None if self.key_mask is None else jnp.asarray(self.key_mask[index])
        return Example(taken.tokens if self.has_ids else None, taken.mask, keys, marks=marks)

    def check(self, metrics: tuple[Metric, ...], *, causal: bool, sums_to_one: bool) -> None:
        """Raise ValueError for numbers that are no attention, or a metric that these positions do not suit."""
        E, N, T, S = self.layers[0].shape
        check_marks(metrics, self.marks, (E, T, S), "patterns")
        own = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], self.examples(np.arange(1))))
        check_functions(metrics, (T, S), own)
        for number in range(len(self.layers)):
            for examples, rows in _blocks(E, N, T, S):
                self._check_block(number, examples, rows, causal=causal, sums_to_one=sums_to_one)

    def _check_block(self, number: int, examples: slice, rows: slice, *, causal: bool, sums_to_one: bool) -> None:
        """Raise ValueError for numbers of some examples and query rows of one layer that are no attention."""
        layer, real_Et = self.layers[number][examples, :, rows], np.asarray(self.batch.mask)[examples, rows]
        pairs_E1tS = (real_Et[:, :, None] & self.keys[examples][:, None])[:, None]
        real_ENtS = np.where(pairs_E1tS, layer.astype(np.float64), 0)

        def refuse(wrong: np.ndarray, words: str, values: np.ndarray | None = None) -> None:
            if wrong.any():
                example, head, row = map(int, np.argwhere(wrong)[0][:3])
                value = "" if values is None else f": {values[example, head, row, 0]:.4g}"
                where = f"example {examples.start + example}, head {head}, query {rows.start + row}"
                raise ValueError(f"patterns: layer {number}, {where} has {words}{value}")

        refuse(~np.isfinite(real_ENtS), "NaN or infinity at a real query and key")
        if sums_to_one:
            refuse(real_ENtS < -_tolerance(layer), "a negative weight (sums_to_one=False takes any numbers)")
            sums_ENt1 = real_ENtS.sum(axis=-1, keepdims=True)
            far = (np.abs(sums_ENt1 - 1) > _tolerance(layer)) & real_Et[:, None, :, None]
            refuse(far, "weights on real keys that do not sum to 1 (sums_to_one=False takes them)", sums_ENt1)
        if causal:
            later_tS = np.arange(layer.shape[3])[None] > np.arange(layer.shape[2])[:, None] + rows.start
            refuse((real_ENtS > _tolerance(layer)) & later_tS, "attention to a later key, in spite of causal")


def _blocks(E: int, N: int, T: int, S: int) -> Iterator[tuple[slice, slice]]:
    """Yield the examples and query rows that are checked together: long patterns are copied a few rows at a time."""
    count, rows = block_rows(1, N, E, T * S), block_rows(1, N, T, S)
    for first, row in product(range(0, E, count), range(0, T, rows)):
        yield slice(first, first + count), slice(row, min(row + rows, T))


def _tolerance(layer: np.ndarray) -> float:
    """Return how far a row's sum may be from 1: by rounding, in bfloat16 up to 1/512 of each weight."""
    return 1e-3 if layer.dtype.itemsize >= 4 else 4e-3


def _inputs(single: dict[str, Any]) -> Iterator[_Given]:
    """Yield the single input, or each of a stream."""
    patterns: Any = single["patterns"]
    entries = list(patterns[:1]) if isinstance(patterns, list | tuple) else []
    is_stream = not isinstance(patterns, str | Mapping | set | type) and (
        (bool(entries) and isinstance(entries[0], Mapping))
        or (isinstance(patterns, Iterable) and not hasattr(patterns, "__len__"))
    )
    if not is_stream:
        yield _given(**single)
        return
    if others := [name for name, value in single.items() if name != "patterns" and value is not None]:
        raise ValueError(f"{others[0]}: a stream's inputs bring their own: leave it out")
    stream: Any = patterns
    for entry in stream:
        if not isinstance(entry, Mapping) or "patterns" not in entry or not set(entry) <= set(FIELDS):
            raise ValueError(
                f"patterns: each input of a stream must be a mapping of {', '.join(FIELDS)}; got {shown(entry)}"
            )
        yield _given(**{name: entry.get(name) for name in FIELDS})


def _given(patterns: Any, mask: Any, tokens: Any, key_mask: Any, marks: Any, pixels: Any, clusters: Any) -> _Given:
    """Return one input; raises ValueError for what does not fit together."""
    layers = _layers(patterns)
    E, _, T, S = layers[0].shape
    ids = np.zeros((E, T), np.int32) if tokens is None else _host("tokens", tokens)
    real = np.ones((E, T), bool) if mask is None else booleans("mask", _host("mask", mask))
    for name, array in (("tokens", ids), ("mask", real)):
        if array.shape != (E, T):
            raise ValueError(f"{name} must be [examples, queries] {[E, T]}, got {list(array.shape)}")
    keys = None if key_mask is None else booleans("key_mask", _host("key_mask", key_mask))
    if keys is None and T != S:
        keys = np.ones((E, S), bool)
    if keys is not None and (keys.shape != (E, S) or not keys.any(axis=1).all()):
        raise ValueError(f"key_mask must be [examples, keys] {[E, S]}, with a real key in each; got {list(keys.shape)}")
    centres = None if pixels is None else np.asarray(_host("pixels", pixels), np.float32)
    if centres is not None and (centres.shape != (T, 2) or keys is not None or tokens is not None):
        raise ValueError(
            f"pixels must be [positions, 2] {[T, 2]}, of self-attention without tokens; got {list(centres.shape)}"
        )
    labelled = Batch(ids, real, marks={name: _host(f"the mark {name!r}", mark) for name, mark in (marks or {}).items()})
    batch = Batch(ids, real)
    batch = batch if clusters is None else batch.clustered(clusters)
    return _Given(layers, batch, keys, centres, tokens is not None, labelled.marks or {})


def _layers(patterns: Any) -> list[np.ndarray]:
    """Return each layer's patterns, `[E,N,T,S]`."""
    if isinstance(patterns, list | tuple) and patterns and _is_foreign(_single(patterns[0])):
        layers = [_host(f"patterns[{number}]", _single(layer)) for number, layer in enumerate(patterns)]
    else:
        array = _host("patterns", patterns)
        if array.ndim != 5:
            hint = "; put the patterns of one layer in a list" if array.ndim == 4 else ""
            raise ValueError(
                "patterns must be [layers, examples, heads, queries, keys], or a list of each layer's [examples, "
                f"heads, queries, keys]; got {shown(array)}{hint}"
            )
        layers = list(array)
    shapes = {layer.shape for layer in layers}
    if len(shapes) != 1 or len(layers[0].shape) != 4 or 0 in layers[0].shape:
        raise ValueError(
            f"patterns must have one shape [examples, heads, queries, keys] in every layer, got {sorted(shapes)}"
        )
    if any(layer.dtype.kind not in "fV" for layer in layers):
        raise ValueError(f"patterns must be floating point numbers, got {layers[0].dtype}")
    return layers


def _single(value: Any) -> Any:
    """Return the only entry of nested tuples: Flax's `sow` stores its values so."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value


def _is_foreign(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("__array__", "__dlpack__", "detach", "get_value"))


def _host(name: str, value: Any) -> np.ndarray:
    """Return an array of any framework as NumPy's."""
    if hasattr(value, "get_value"):  # a variable of Flax NNX
        value = value.get_value()
    if hasattr(value, "detach"):  # a tensor of PyTorch, which may have a gradient or be on another device
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which NumPy does not have
            return np.asarray(value.float()).astype(jnp.bfloat16)
    if isinstance(value, str | bytes | Mapping | set | type) or value is None or callable(value):
        raise ValueError(f"{name} must be an array, got {shown(value)}")
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return as_array(name, value)


def _chosen(metrics: str | Metric | Sequence[str | Metric] | None, given: _Given) -> tuple[Metric, ...]:
    cross = given.key_mask is not None
    if metrics is None:
        return tuple(metric for metric in METRICS.values() if fits_positions(metric, given.kind, cross=cross))
    chosen = resolve(metrics)
    if undefined := [own for own in chosen if not fits_positions(own, given.kind, cross=cross)]:
        kind = "cross-attention" if cross else {"frames": "patterns without tokens="}.get(given.kind, given.kind)
        raise ValueError(f"metrics: {', '.join(own.name for own in undefined)}: not defined for {kind}")
    return chosen


def _scores(given: _Given, metrics: tuple[Metric, ...], memory: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return chunk by chunk the indices of its examples, and their scores `[B,L,N,C]`."""
    E, N, T, S = given.layers[0].shape
    chunks = Chunks.fitting(E, tokens=T, copy_bytes=FLOAT * N * T * S + score_bytes(metrics, N, T, S), memory=memory)
    results = []

    def run(examples: np.ndarray) -> Iterator[Later[None]]:
        new, own = np.unique(examples), given.examples(examples)
        scores: list[np.ndarray] = []

        def add(layer: int, scores_BNC: Array) -> None:
            with detecting_out_of_memory():
                scores.append(np.asarray(scores_BNC, np.float64))
            if layer == len(given.layers) - 1:
                results.append((new, np.stack(scores, axis=1)[: len(new)]))

        for number, layer in enumerate(given.layers):
            with detecting_out_of_memory():
                scores_BNC = _program()(layer[examples].astype(np.float32), own, metrics)
            yield partial(add, number, scores_BNC)

    run_chunks(chunks, E, run)
    return results


@cache
def _program() -> Any:
    return compiled(_layer_scores, static_argnames="metrics", compiler_options=lean_options())


def _layer_scores(pattern_BNTS: Array, examples: Example, metrics: tuple[Metric, ...]) -> Array:
    # Nothing counts at padding, where other frameworks leave NaN.
    pairs_B1TS = (examples.mask[:, :, None] & examples.keys[:, None])[:, None]
    pattern_BNTS = jnp.where(pairs_B1TS, pattern_BNTS, 0.0)
    reader = RowScores(metrics, counted(examples), pattern_BNTS.shape[1])
    return read_in_blocks(reader, {"pattern": pattern_BNTS}, block_rows(*pattern_BNTS.shape))
