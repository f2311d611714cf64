"""Batches of examples, and their positions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from ...arguments import checked
from ...checks import one_of, shown
from ...programs import on_host, take_examples, to_device
from ...statistics.rows import cluster_codes
from .batch_fields import (
    clusters_field,
    labels_of_examples,
    marks_field,
    numbers_field,
    segments_field,
    sequence_fields,
    words_field,
)
from .labels import Labels

_FIELDS = (
    "tokens",
    "mask",
    "token_types",
    "segments",
    "words",
    "targets",
    "target_mask",
    "pixels",
    "features",
    "clusters",
    "labels",
    "marks",
)


def count_positions(mask_BT: Array, segments_BT: Array | None = None) -> Array:
    """Return positions `[B,T]` that count real tokens from 0, so that left padding equals no padding; 0 at padding.

    Args:
        segments_BT: texts that share an example, one after the other: each is counted by itself.
    """
    known_BT, texts_BT = on_host(mask_BT), None if segments_BT is None else on_host(segments_BT)
    if known_BT is not None and (segments_BT is None or texts_BT is not None):
        return to_device(_counted(np, known_BT, texts_BT, np.maximum.accumulate))
    return _counted(jnp, mask_BT, segments_BT, jax.lax.cummax)


def _counted(xp: Any, mask_BT: Any, segments_BT: Any, running_maximum: Callable[..., Any]) -> Any:
    """Return `count_positions` by NumPy or JAX."""
    index_BT = xp.cumsum(mask_BT, axis=1, dtype=xp.int32) - 1
    if segments_BT is not None:
        before_BT = xp.concatenate([segments_BT[:, :1] - 1, segments_BT[:, :-1]], axis=1)
        starts_BT = xp.where(segments_BT != before_BT, index_BT + 1 - mask_BT.astype(xp.int32), 0)
        index_BT = index_BT - running_maximum(starts_BT, axis=1)
    return xp.where(mask_BT, index_BT, 0)


@dataclass(frozen=True)
class Positions:
    """The positions of a batch along one axis.

    Attributes:
        mask: which positions are real, not padding, `[B,T]`.
        ids: their token ids `[B,T]`, or None.
        segments: the text that each belongs to, of several that share an example, `[B,T]`; or None.
    """

    mask: Array
    ids: Array | None = None
    segments: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of examples and of positions."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def lengths(self) -> Array:
        """Number of real positions of each example, `[B]`."""
        if (known_BT := on_host(self.mask)) is not None:
            return to_device(known_BT.sum(axis=1, dtype=np.int32))
        return self.mask.sum(axis=1, dtype=jnp.int32)

    @property
    def longest(self) -> int:
        """Number of real positions of the longest text, where positions are known (not traced)."""
        texts_BT = None if self.segments is None else np.asarray(self.segments)
        return 1 + int(_counted(np, np.asarray(self.mask), texts_BT, np.maximum.accumulate).max())

    @property
    def positions(self) -> Array:
        """Position of each real token among its example's (or its text's) real ones, from 0, `[B,T]`; 0 at padding."""
        return count_positions(self.mask, self.segments)

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real position."""
        if (known_BT := on_host(self.mask)) is not None:
            return to_device(known_BT.shape[1] - 1 - known_BT[:, ::-1].argmax(axis=1), np.int32)
        return self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Batch:
    """Examples of one shape: token sequences (padded on either side), images, or audio.

    Args:
        tokens: token ids, integers `[B,T]`.
        mask: which tokens are real, `[B,T]`; all of them when left out.
        token_types: segment ids `[B,T]` (BERT's `token_type_ids`); zeros when left out.
        segments: numbers `[B,T]` of texts that share an example, each in one stretch of it. They do not attend to each
            other, and their positions start anew (see `jaxheads.data.text_batches`, `pack`). Padding has any number.
        words: index `[B,T]` of the word that each token belongs to; -1 for special tokens. No model reads it.
        targets: token ids `[B,U]` of the decoder's input, in an encoder–decoder.
        target_mask: which targets are real, `[B,U]`; all of them when left out.
        pixels: images, normalised for the model, `[B,height,width,C]`. A batch for a model that compares images with
            texts may have different numbers of the two.
        features: log-mel spectrograms, `[B,mels,frames]`.
        clusters: labels `[B]`, integers, of examples that depend on each other: one document, one template. Intervals
            and splits treat a cluster as one; labels mean the same in all batches of a stream. No model reads them.
        labels: what is known of the sentences' words, as `Model.encode` makes it of `jaxheads.data.Sentences`; no
            model reads it.
        marks: by name, labels of positions `[B,S]` (a class of tokens: "noun") or of pairs of query and key `[B,T,S]`
            (a relation: "head"), numbers or booleans. Measures read them, models do not.

    Raises:
        ValueError: for no field at all, a wrong rank or shape, token ids that are not integers, pixels or features
            that are not finite, an empty batch, or an example without a real token.
    """

    tokens: Array
    mask: Array
    token_types: Array
    segments: Array | None
    words: Array | None
    targets: Array | None
    target_mask: Array | None
    pixels: Array | None
    features: Array | None
    clusters: Array | None
    labels: Labels | None
    marks: dict[str, Array] | None

    def __init__(
        self,
        tokens: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        segments: ArrayLike | None = None,
        words: ArrayLike | None = None,
        targets: ArrayLike | None = None,
        target_mask: ArrayLike | None = None,
        pixels: ArrayLike | None = None,
        features: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
        labels: Labels | None = None,
        marks: Mapping[str, ArrayLike] | None = None,
    ):
        arrays = {
            **sequence_fields("tokens", tokens, "mask", mask, token_types),
            **sequence_fields("targets", targets, "target_mask", target_mask),
            "segments": segments_field(segments, tokens, mask),
            "words": words_field(words, tokens),
            "pixels": numbers_field("pixels", pixels, "[examples, height, width, channels]"),
            "features": numbers_field("features", features, "[examples, mels, frames]"),
            "clusters": clusters_field(clusters),
        }
        counts = {name: len(array) for name, array in arrays.items() if array is not None}
        if not counts.keys() - {"clusters"}:
            raise ValueError("a batch needs tokens, pixels or features; got none")
        if len({count for name, count in counts.items() if name != "pixels"}) > 1:
            raise ValueError(f"all arrays of a batch must have the same number of examples, got {counts}")
        for name in _FIELDS[:-2]:
            object.__setattr__(self, name, arrays.get(name))
        object.__setattr__(self, "labels", labels_of_examples(labels, set(counts.values())))
        object.__setattr__(self, "marks", marks_field(marks, set(counts.values())))

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
        counts = {len(field) for name in _FIELDS[:-2] if (field := getattr(self, name)) is not None}
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
        """Position of each token among the real tokens of its example (or text), from 0, `[B,T]`; 0 at padding."""
        return Positions(self.mask, segments=self.segments).positions

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real token."""
        return Positions(self.mask).last

    @property
    def cluster_labels(self) -> np.ndarray | None:
        """The labels `[B]` of clusters on the host; None where examples are independent."""
        return None if self.clusters is None else np.asarray(self.clusters)

    @property
    def model_inputs(self) -> "Batch":
        """The batch with what models read alone: of equal shapes, two batches share a program, labelled or not."""
        return self.without("words", "clusters", "labels", "marks")

    @checked()
    def without(self, *names: str) -> "Batch":
        """Return the batch without some of its fields; raises ValueError for a field that there is not."""
        for name in names:
            one_of("the field", name, _FIELDS)
        return self.tree_unflatten(None, (None if name in names else getattr(self, name) for name in _FIELDS))

    @checked()
    def only(self, kind: str) -> "Batch":
        """Return a batch with the fields of one kind of positions ("patches": the images) and all marks."""
        fields = {"tokens": _FIELDS[:5], "targets": _FIELDS[5:7], "patches": ("pixels",), "frames": ("features",)}
        one_of("kind", kind, fields)
        names = (*fields[kind], "clusters", "labels", "marks")
        return self.tree_unflatten(None, (getattr(self, name) if name in names else None for name in _FIELDS))

    @checked()
    def marked(self, marks: Mapping[str, ArrayLike]) -> "Batch":
        """Return the batch with these marks instead of its own; raises as the constructor does."""
        arrays = marks_field(marks, {len(self)})
        return self.tree_unflatten(None, (*(getattr(self, name) for name in _FIELDS[:-1]), arrays))

    @checked()
    def clustered(self, clusters: ArrayLike) -> "Batch":
        """Return the batch with these labels of clusters `[B]`, of any type, instead of its own.

        Raises:
            ValueError: for labels that are missing, or not one for each example.
        """
        codes = to_device(cluster_codes(clusters, len(self)), np.int32)
        return self.tree_unflatten(None, (codes if name == "clusters" else getattr(self, name) for name in _FIELDS))

    @checked()
    def take(self, examples: ArrayLike) -> "Batch":
        """Return the batch of these examples, by index.

        Raises:
            ValueError: if the numbers of images and of texts differ, or for an index that no example has.
        """
        count, index = len(self), examples
        if not isinstance(examples, Tracer):
            index = np.asarray(examples)
            # JAX would read the last example for an index beyond it.
            if index.dtype.kind not in "iu" or (index.size and not 0 <= index.min() <= index.max() < count):
                raise ValueError(f"examples must be whole numbers in 0..{count - 1}, got {shown(examples)}")
        return take_examples(self, index)


if TYPE_CHECKING:
    Texts = Any
    """What `Model.encode` takes as texts, in place of a batch: `arguments.settled` makes a batch of it."""
else:
    # Of a function's argument only a batch is left when it is checked.
    Texts = Batch
