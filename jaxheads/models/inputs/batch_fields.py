"""Fields of a batch, checked as they came before they become JAX's 32-bit arrays: a cast would hide what is wrong.

Every function raises ValueError that names the field. While tracing, values can't be checked; types and shapes are.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import ArrayLike

from ...checks import as_array, booleans, fitting_32_bits, shown, whole_numbers
from ...programs import to_device
from .labels import Labels

_EXACT = 2**24
"""Whole numbers up to here are exact in float32."""


def marks_field(marks: Mapping[str, ArrayLike] | None, counts: set[int]) -> dict[str, Array] | None:
    """Return marks of positions or of pairs as arrays by name; `counts` are the possible numbers of examples."""
    if marks is None:
        return None
    if not isinstance(marks, Mapping) or not all(isinstance(name, str) for name in marks):
        raise ValueError(f"marks must be arrays by name, {{'noun': …}}; got {shown(marks)}")
    if not marks:
        return None
    arrays = {}
    for name, mark in marks.items():
        if isinstance(mark, Tracer):
            arrays[name] = mark
            continue
        array = as_array(f"the mark {name!r}", mark)
        if array.ndim not in (2, 3) or len(array) not in counts or array.dtype.kind not in "buif":
            raise ValueError(
                f"the mark {name!r} must be numbers [examples, positions] or [examples, queries, keys], for "
                f"{' or '.join(map(str, sorted(counts)))} examples; got {array.dtype} of shape {array.shape}"
            )
        if array.dtype.kind in "iu" and array.size and np.abs(array.astype(np.float64)).max() > _EXACT:
            raise ValueError(
                f"the mark {name!r} must hold numbers up to 2²⁴, which float32 can tell apart: number them"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(array.astype(np.float32)).all():
                raise ValueError(f"the mark {name!r} must be finite, got NaN or infinity")
        arrays[name] = to_device(array, bool if array.dtype.kind == "b" else np.float32)
    return arrays


def sequence_fields(
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
    """Fill in what is left out, without the checks of values, which can't run while tracing."""
    for field, array, kinds in ((name, ids, "iu"), ("its mask", mask, "biu"), ("token_types", types, "iu")):
        if array is not None and jnp.asarray(array).dtype.kind not in kinds:
            raise ValueError(f"{field} must be {'booleans' if 'b' in kinds else 'integers'}, got {shown(array)}")
    numbers = jnp.asarray(ids, jnp.int32)
    real = jnp.ones(numbers.shape, bool) if mask is None else jnp.asarray(mask, bool)
    kinds = jnp.zeros(numbers.shape, jnp.int32) if types is None else jnp.asarray(types, jnp.int32)
    return numbers, real, kinds


def _checked(name: str, ids: ArrayLike, mask: ArrayLike | None, types: ArrayLike | None) -> tuple[Array, Array, Array]:
    numbers = as_array(name, ids)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {numbers.dtype}; use model.encode for text")
    if numbers.ndim != 2 or 0 in numbers.shape:
        raise ValueError(f"{name} must be [examples, positions] with at least one of each, got shape {numbers.shape}")
    mask_name = "mask" if name == "tokens" else "target_mask"
    real = np.ones(numbers.shape, bool) if mask is None else booleans(mask_name, mask)
    kinds = np.zeros(numbers.shape, np.int32) if types is None else whole_numbers("token_types", types)
    for other, array in ((mask_name, real), ("token_types", kinds)):
        if array.shape != numbers.shape:
            raise ValueError(f"{other} must have the shape of {name} {numbers.shape}, got {array.shape}")
    empty = np.flatnonzero(~real.any(axis=1))
    if empty.size:
        raise ValueError(f"every example needs a real token; the mask is empty for examples {empty[:8].tolist()}")
    numbers, kinds = fitting_32_bits(name, numbers), fitting_32_bits("token_types", kinds)
    return to_device(numbers), to_device(real), to_device(kinds)


def segments_field(segments: ArrayLike | None, tokens: ArrayLike | None, mask: ArrayLike | None) -> Array | None:
    """Return the text that each token belongs to, of the shape of `tokens`."""
    if segments is None:
        return None
    if any(isinstance(array, Tracer) for array in (segments, tokens, mask)):
        return jnp.asarray(segments, jnp.int32)
    numbers = whole_numbers("segments", segments)
    if tokens is None or numbers.shape != np.shape(tokens):
        raise ValueError(f"segments must have the shape of tokens, got {numbers.shape}")
    real = np.ones(numbers.shape, bool) if mask is None else np.asarray(mask, bool)
    for example, (texts, own) in enumerate(zip(numbers, real, strict=True)):
        stretches = texts[own][np.flatnonzero(np.diff(texts[own], prepend=texts[own][0] - 1))]
        if len(np.unique(stretches)) < len(stretches):
            raise ValueError(
                f"segments must be one stretch each; those of example {example} come back: {stretches[:8].tolist()}"
            )
    # Padding within a text, or beside it, belongs to the text before it: a text's stretch has no hole.
    filled = np.maximum.accumulate(np.where(real, np.arange(numbers.shape[1]), 0), axis=1)
    return to_device(fitting_32_bits("segments", np.take_along_axis(numbers, filled, axis=1)))


def words_field(words: ArrayLike | None, tokens: ArrayLike | None) -> Array | None:
    """Return the word of each token, of the shape of `tokens`."""
    if words is None:
        return None
    if isinstance(words, Tracer):
        return jnp.asarray(words, jnp.int32)
    numbers = whole_numbers("words", words)
    if tokens is None or numbers.shape != np.shape(tokens):
        raise ValueError(f"words must have the shape of tokens, got {numbers.shape}")
    return to_device(fitting_32_bits("words", numbers))


def labels_of_examples(labels: Labels | None, counts: set[int]) -> Labels | None:
    """Return labels of sentences, which must be of as many examples as the batch has."""
    if labels is None:
        return None
    if not isinstance(labels, Labels):
        raise ValueError(f"labels must be those of a batch that model.encode made of sentences; got {shown(labels)}")
    if wrong := {name: len(array) for name, array in labels.items() if len(array) not in counts}:
        raise ValueError(f"labels must be of {' or '.join(map(str, sorted(counts)))} examples, got {wrong}")
    return labels


def clusters_field(clusters: ArrayLike | None) -> Array | None:
    """Return labels of clusters, integers `[B]`."""
    if clusters is None or isinstance(clusters, Tracer):
        return None if clusters is None else jnp.asarray(clusters)
    labels = as_array("clusters", clusters)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"clusters must be integers [examples], got {labels.dtype} of shape {labels.shape}; Batch.clustered takes "
            "labels of any type"
        )
    if labels.size and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise ValueError(f"clusters must fit 32 bits, got {labels.min()} to {labels.max()}: number them")
    return to_device(labels, np.int32)


def numbers_field(name: str, values: ArrayLike | None, axes: str) -> Array | None:
    """Return pixels or features, float32 with these axes."""
    if values is None or isinstance(values, Tracer):
        return None if values is None else jnp.asarray(values)
    array = as_array(name, values)
    if array.ndim != axes.count(",") + 1 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must be {axes} of floating point numbers, got {array.dtype} of shape {array.shape}")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite in float32, got NaN or infinite entries")
    return to_device(numbers)
