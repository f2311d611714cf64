"""Batches of examples, their positions, and the masks and positions that attention reads of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from ...statistics.rows import cluster_codes

_FIELDS = (
    "tokens",
    "mask",
    "token_types",
    "words",
    "targets",
    "target_mask",
    "pixels",
    "features",
    "clusters",
    "marks",
)


def count_positions(mask_BT: Array) -> Array:
    """Return positions `[B,T]` that count real tokens from 0, so that left padding equals no padding; 0 at padding."""
    return jnp.where(mask_BT, jnp.cumsum(mask_BT, axis=1, dtype=jnp.int32) - 1, 0)


@dataclass(frozen=True)
class Positions:
    """The positions of a batch along one axis.

    Attributes:
        mask: which positions are real, not padding, `[B,T]`.
        ids: their token ids `[B,T]`, or None.
    """

    mask: Array
    ids: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of examples and of positions."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def lengths(self) -> Array:
        """Number of real positions of each example, `[B]`."""
        return self.mask.sum(axis=1, dtype=jnp.int32)

    @property
    def positions(self) -> Array:
        """Position of each real token among its example's real ones, from 0, `[B,T]`; 0 at padding."""
        return count_positions(self.mask)

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real position."""
        return self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Batch:
    """Examples of one shape: token sequences (padded on either side), images, or audio.

    Args:
        tokens: token ids, integers `[B,T]`.
        mask: which tokens are real, `[B,T]`; all of them when left out.
        token_types: segment ids `[B,T]` (BERT's `token_type_ids`); zeros when left out.
        words: index `[B,T]` of the word that each token belongs to; -1 for special tokens. No model reads it.
        targets: token ids `[B,U]` of the decoder's input, in an encoder–decoder.
        target_mask: which targets are real, `[B,U]`; all of them when left out.
        pixels: images, normalised for the model, `[B,height,width,C]`. A batch for a model that compares images with
            texts may have different numbers of the two.
        features: log-mel spectrograms, `[B,mels,frames]`.
        clusters: labels `[B]`, integers, of examples that depend on each other: one document, one template. Intervals
            and splits treat a cluster as one; labels mean the same in all batches of a stream. No model reads them.
        marks: by name, labels of positions `[B,S]` (a class of tokens: "noun") or of pairs of query and key `[B,T,S]`
            (a relation: "head"), numbers or booleans. Measures read them, models do not.

    Raises:
        ValueError: for no field at all, a wrong rank or shape, token ids that are not integers, pixels or features
            that are not finite, an empty batch, or an example without a real token.
    """

    tokens: Array
    mask: Array
    token_types: Array
    words: Array | None
    targets: Array | None
    target_mask: Array | None
    pixels: Array | None
    features: Array | None
    clusters: Array | None
    marks: dict[str, Array] | None

    def __init__(
        self,
        tokens: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        words: ArrayLike | None = None,
        targets: ArrayLike | None = None,
        target_mask: ArrayLike | None = None,
        pixels: ArrayLike | None = None,
        features: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
        marks: Mapping[str, ArrayLike] | None = None,
    ):
        arrays = {
            **_sequence("tokens", tokens, "mask", mask, token_types),
            **_sequence("targets", targets, "target_mask", target_mask),
            "words": _words(words, tokens),
            "pixels": _numbers("pixels", pixels, "[examples, height, width, channels]"),
            "features": _numbers("features", features, "[examples, mels, frames]"),
            "clusters": _labels(clusters),
        }
        counts = {name: len(array) for name, array in arrays.items() if array is not None}
        if not counts.keys() - {"clusters"}:
            raise ValueError("a batch needs tokens, pixels or features; got none")
        if len({count for name, count in counts.items() if name != "pixels"}) > 1:
            raise ValueError(f"all arrays of a batch must have the same number of examples, got {counts}")
        for name in _FIELDS[:-1]:
            object.__setattr__(self, name, arrays.get(name))
        object.__setattr__(self, "marks", _marks(marks, set(counts.values())))

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Array | None], ...], None]:
        """Return the fields with their keys, for JAX."""
        return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _FIELDS), None

    @classmethod
    def tree_unflatten(cls, _: None, fields: Iterable[Any]) -> Self:
        """Build a batch from its fields, for JAX."""
        # Not by the constructor: its checks refuse what JAX may put there instead of arrays (tracers, axes, shapes).
        batch = object.__new__(cls)
        for name, value in zip(_FIELDS, fields, strict=True):
            object.__setattr__(batch, name, value)
        return batch

    def __len__(self) -> int:
        counts = {len(field) for name in _FIELDS[:-1] if (field := getattr(self, name)) is not None}
        if len(counts) > 1:
            assert self.pixels is not None, "the constructor lets only images differ in number"
            [texts] = counts - {len(self.pixels)}
            raise ValueError(
                f"a batch of {texts} texts and {len(self.pixels)} images has no examples of both; "
                "give texts and images one by one, or in batches of their own"
            )
        return counts.pop() if counts else 0

    @property
    def lengths(self) -> Array:
        """Number of real tokens of each example, `[B]`."""
        return Positions(self.mask).lengths

    @property
    def positions(self) -> Array:
        """Position of each token among its example's real tokens, from 0, `[B,T]`; 0 at padding."""
        return Positions(self.mask).positions

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real token."""
        return Positions(self.mask).last

    @property
    def cluster_labels(self) -> np.ndarray | None:
        """The labels `[B]` of clusters on the host; None where examples are independent."""
        return None if self.clusters is None else np.asarray(self.clusters)

    def only(self, kind: str) -> "Batch":
        """Return a batch with the fields of one kind of positions ("patches": the images) and all marks."""
        names = {"tokens": _FIELDS[:4], "targets": _FIELDS[4:6], "patches": ("pixels",), "frames": ("features",)}[kind]
        names = (*names, "clusters", "marks")
        return self.tree_unflatten(None, (getattr(self, name) if name in names else None for name in _FIELDS))

    def marked(self, marks: Mapping[str, ArrayLike]) -> "Batch":
        """Return the batch with these marks instead of its own; raises as the constructor does."""
        arrays = _marks(marks, {len(self)})
        return self.tree_unflatten(None, (*(getattr(self, name) for name in _FIELDS[:-1]), arrays))

    def clustered(self, clusters: ArrayLike) -> "Batch":
        """Return the batch with these labels of clusters `[B]`, of any type, instead of its own.

        Raises:
            ValueError: for labels that are missing, or not one for each example.
        """
        codes = jnp.asarray(cluster_codes(clusters, len(self)), jnp.int32)
        return self.tree_unflatten(None, (codes if name == "clusters" else getattr(self, name) for name in _FIELDS))

    def take(self, examples: ArrayLike) -> "Batch":
        """Return the batch of these examples, by index.

        Raises:
            ValueError: if the numbers of images and of texts differ.
        """
        len(self)  # raises
        index = np.asarray(examples)
        return jax.tree.map(lambda field: field[index], self)


def _marks(marks: Mapping[str, ArrayLike] | None, counts: set[int]) -> dict[str, Array] | None:
    if not marks:
        return None
    arrays = {}
    for name, mark in marks.items():
        if isinstance(mark, Tracer):
            arrays[name] = mark
            continue
        array = np.asarray(mark)
        if array.ndim not in (2, 3) or len(array) not in counts or array.dtype.kind not in "buif":
            raise ValueError(
                f"the mark {name!r} must be numbers [examples, positions] or [examples, queries, keys], for "
                f"{' or '.join(map(str, sorted(counts)))} examples; got {array.dtype} of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"the mark {name!r} must be finite, got NaN or infinity")
        arrays[name] = jnp.asarray(array, bool if array.dtype.kind == "b" else jnp.float32)
    return arrays


def _sequence(
    name: str, ids: ArrayLike | None, mask_name: str, mask: ArrayLike | None, token_types: ArrayLike | None = None
) -> dict[str, Array]:
    """Return ids, their mask and, for tokens, their types, by field."""
    if ids is None:
        if mask is not None or token_types is not None:
            raise ValueError(f"{mask_name} and token types belong to {name}: give these as well")
        return {}
    traced = any(isinstance(array, Tracer) for array in (ids, mask, token_types))
    arrays = (_unchecked if traced else _checked)(name, ids, mask, token_types)
    return dict(zip((name, mask_name, "token_types")[: 3 if name == "tokens" else 2], arrays, strict=False))


def _unchecked(
    name: str, ids: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Fill in what is left out, without the checks, which need values and so can't run while tracing."""
    del name
    numbers = jnp.asarray(ids, jnp.int32)
    real = jnp.ones(numbers.shape, bool) if mask is None else jnp.asarray(mask, bool)
    kinds = jnp.zeros(numbers.shape, jnp.int32) if types is None else jnp.asarray(types, jnp.int32)
    return numbers, real, kinds


def _checked(name: str, ids: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None) -> tuple[Array, Array, Array]:
    numbers = np.asarray(ids)
    if numbers.ndim != 2 or 0 in numbers.shape:
        raise ValueError(f"{name} must be [examples, positions] with at least one of each, got shape {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {numbers.dtype}; use model.encode for text")
    real = np.ones(numbers.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    kinds = np.zeros(numbers.shape, np.int32) if types is None else np.asarray(types)
    if not np.issubdtype(kinds.dtype, np.integer):
        raise ValueError(f"token_types must be integers, got {kinds.dtype}")
    for other, array in (("mask", real), ("token_types", kinds)):
        if array.shape != numbers.shape:
            raise ValueError(f"{other} must have the shape of {name} {numbers.shape}, got {array.shape}")
    empty = np.flatnonzero(~real.any(axis=1))
    if empty.size:
        raise ValueError(f"every example needs a real token; the mask is empty for examples {empty[:8].tolist()}")
    return jnp.asarray(numbers, jnp.int32), jnp.asarray(real), jnp.asarray(kinds, jnp.int32)


def _words(words: ArrayLike | None, tokens: ArrayLike | None) -> Array | None:
    if words is None:
        return None
    if tokens is None or np.shape(words) != np.shape(tokens):
        raise ValueError(f"words must have the shape of tokens, got {np.shape(words)}")
    return jnp.asarray(words, jnp.int32)


def _labels(clusters: ArrayLike | None) -> Array | None:
    if clusters is None or isinstance(clusters, Tracer):
        return None if clusters is None else jnp.asarray(clusters)
    labels = np.asarray(clusters)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"clusters must be integers [examples], got {labels.dtype} of shape {labels.shape}; Batch.clustered takes "
            "labels of any type"
        )
    if labels.size and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise ValueError(f"clusters must fit 32 bits, got {labels.min()} to {labels.max()}: number them")
    return jnp.asarray(labels, jnp.int32)


def _numbers(name: str, values: ArrayLike | None, axes: str) -> Array | None:
    if values is None or isinstance(values, Tracer):
        return None if values is None else jnp.asarray(values)
    array = np.asarray(values)
    if array.ndim != axes.count(",") + 1 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be {axes} of floating point numbers, got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return jnp.asarray(array, jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """Inputs of attention beside the stream, shared by all layers of a stack.

    Attributes:
        mask: `[B,T,S]`, True where a query may attend to a key.
        queries: positions of the queries, `[B,T]`.
        keys: positions of all keys, `[B,S]`.
        own_keys: positions of the keys that the layer computes from its stream (or memory). All keys, except after
            `after`, where the earlier ones come from a cache.
        bias: bias of the scores, `[B|1,N,T|1,S]`, for relative positions and ALiBi; or None.
        memory: the encoder's output `[B,S,D]`, from which cross-attention reads keys and values; else None.
        cross: inputs of the cross-attention that follows in every layer, or None.
    """

    mask: Array
    queries: Array
    keys: Array
    own_keys: Array
    bias: Array | None = None
    memory: Array | None = None
    cross: "AttentionInputs | None" = None

    @staticmethod
    def within(
        positions: Positions, *, causal: bool, bias: Array | None = None, cross: "AttentionInputs | None" = None
    ) -> "AttentionInputs":
        """Return the inputs of self-attention over real keys; with `causal`, over no later ones."""
        B, T = positions.shape
        mask_BTS = jnp.broadcast_to(positions.mask[:, None, :], (B, T, T))
        if causal:
            mask_BTS = mask_BTS & jnp.tril(jnp.ones((T, T), bool))[None]
        positions_BT = positions.positions
        return AttentionInputs(mask_BTS, positions_BT, positions_BT, positions_BT, bias, cross=cross)

    @staticmethod
    def over(batch: Batch, *, causal: bool, bias: Array | None = None) -> "AttentionInputs":
        """Return the inputs of self-attention over a batch's tokens."""
        return AttentionInputs.within(Positions(batch.mask), causal=causal, bias=bias)

    @staticmethod
    def between(queries: Positions, keys: Positions, memory_BSD: Array) -> "AttentionInputs":
        """Return the inputs of cross-attention, in which every query sees every real key."""
        mask_BTS = jnp.broadcast_to(keys.mask[:, None, :], (*queries.shape, keys.shape[1]))
        return AttentionInputs(mask_BTS, queries.positions, keys.positions, keys.positions, memory=memory_BSD)

    def after(self, position: int) -> "AttentionInputs":
        """Restrict the queries to positions ≥ `position`. They still see all keys, but compute only their own."""
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:
            bias = bias[:, :, position:]
        cross = None if self.cross is None else self.cross.after(position)
        own_keys = self.own_keys[:, position:] if self.memory is None else self.own_keys
        return replace(
            self,
            mask=self.mask[:, position:],
            queries=self.queries[:, position:],
            own_keys=own_keys,
            bias=bias,
            cross=cross,
        )

    def rows(self, rows_BR: Array) -> "AttentionInputs":
        """Restrict the queries to these positions `[B,R]` of each example; keys stay."""
        mask_BRS = jnp.take_along_axis(self.mask, rows_BR[:, :, None], axis=1)
        queries_BR = jnp.take_along_axis(self.queries, rows_BR, axis=1)
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:
            bias = jnp.broadcast_to(bias, (rows_BR.shape[0], *bias.shape[1:]))
            bias = jnp.take_along_axis(bias, rows_BR[:, None, :, None], axis=2)
        cross = None if self.cross is None else self.cross.rows(rows_BR)
        return replace(self, mask=mask_BRS, queries=queries_BR, bias=bias, cross=cross)
