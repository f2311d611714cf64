"""What objectives of classifiers read: labels by number or name, and the rows and classes that they stand for."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .checks import is_number, nearest, shown
from .models.inputs.batch import Batch
from .models.model import Model
from .reads import Reads, needs_logits

LEFT_OUT = -100
"""Label of a token that is not counted, as in transformers and PyTorch."""


def class_reads(model: Model, batch: Batch, name: str, labels: np.ndarray, positions: np.ndarray | None) -> Reads:
    """Return reads of all classes where there are labels, with these as `expected`."""
    kind = _kind(model, name)
    ids, B = _numbered(model, name, labels), len(batch)
    if kind == "token":
        return _token_reads(model, batch, name, ids, positions)
    if positions is not None:
        raise ValueError(f"{name}: {model.name} classifies whole examples: give no positions")
    if ids.shape not in ((1,), (B,)):
        raise ValueError(f"{name}: labels must be one class or {B}, one for each example; got shape {list(ids.shape)}")
    if (ids == LEFT_OUT).any():
        raise ValueError(f"{name}: every example needs a label")
    return replace(_example_rows(model, batch), expected=jnp.broadcast_to(jnp.asarray(ids, jnp.int32), (B,))[:, None])


def _example_rows(model: Model, batch: Batch) -> Reads:
    rows_BR = jnp.asarray(model.network.readout_positions(batch), jnp.int32).reshape(len(batch), -1)
    return Reads(rows_BR, shares=model.network.readout_shares(batch))


def _token_reads(model: Model, batch: Batch, name: str, ids: np.ndarray, positions: np.ndarray | None) -> Reads:
    """Return reads of single tokens' classes: at one position of each example, or wherever there is a label."""
    real_BT = np.asarray(model.network.streams[-1].queries.of(batch).mask)
    B, T = real_BT.shape
    if positions is not None:
        if ids.shape not in ((1,), (B,)):
            raise ValueError(f"{name}: at positions, labels must be one class or {B}; got shape {list(ids.shape)}")
        labels_BT = np.full((B, T), LEFT_OUT)
        labels_BT[np.arange(B), _inside(name, positions, real_BT)] = ids
    elif ids.shape == (B, T):
        labels_BT = ids
    else:
        raise ValueError(
            f"{name}: {model.name} labels tokens: give the positions of those that are asked for, or labels of all "
            f"tokens {[B, T]}; got shape {list(ids.shape)}"
        )
    counted_BT = (labels_BT != LEFT_OUT) & real_BT
    counts_B = counted_BT.sum(axis=1)
    if not counts_B.all():
        raise ValueError(f"{name}: no token has a label in examples {np.flatnonzero(counts_B == 0)[:8].tolist()}")
    rows_BR = np.argsort(~counted_BT, axis=1, kind="stable")[:, : counts_B.max()].astype(np.int32)
    weight_BR = (np.arange(rows_BR.shape[1]) < counts_B[:, None]) / counts_B[:, None]
    expected_BR = np.maximum(np.take_along_axis(labels_BT, rows_BR, axis=1), 0)
    return Reads(
        jnp.asarray(rows_BR), weight=jnp.asarray(weight_BR, jnp.float32), expected=jnp.asarray(expected_BR, jnp.int32)
    )


def with_truth_values(model: Model, reads: Reads) -> Reads:
    """Return the reads with 0 and 1 as truth values where a token has a single logit (ELECTRA's discriminator)."""
    if model.network.unembedding.weight.shape[0] > 1 or reads.expected is None:
        return reads
    return replace(reads, expected=reads.expected.astype(jnp.float32))


def number_reads(model: Model, batch: Batch, name: str, labels: np.ndarray, *, truth: bool = False) -> Reads:
    """Return reads of all columns with numbers to compare them with, `[B,classes]`, of 0 and 1 for `truth`."""
    B, classes = len(batch), model.network.unembedding.weight.shape[0]
    values = labels[:, None] if labels.ndim == 1 and classes == 1 else labels
    fits = values.ndim == 2 and values.shape[0] in (1, B) and values.shape[1] == classes
    if labels.dtype.kind not in "iufb" or not fits or (truth and not np.isin(values, (0, 1)).all()):
        kind = "0 or 1" if truth else "a number"
        each = f"of {classes} classes" if classes > 1 or truth else ""
        raise ValueError(f"{name}: labels must be {kind} for each of {B} examples {each}, got {shown(labels)}")
    expected_BC = jnp.broadcast_to(jnp.asarray(values, jnp.float32), (B, classes))
    columns_BC = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32), (B, classes))
    return replace(_example_rows(model, batch), columns=columns_BC, expected=expected_BC)


def stated_problem(model: Model) -> str | None:
    """Return the `problem_type` of the model's config, or None."""
    return (model.hf_config or {}).get("problem_type")


def problem_of(model: Model, labels: np.ndarray) -> str:
    """Return "regression", "several labels" or "classes", as transformers chooses the loss."""
    needs_logits(model, "a loss of classes")
    stated, single = stated_problem(model), model.network.unembedding.weight.shape[0] == 1
    if model.network.classes_of != "example":
        return "classes"
    if stated == "regression" or (stated is None and single):
        return "regression"
    return "several labels" if stated == "multi_label_classification" or labels.ndim == 2 else "classes"


def refuse_scores(model: Model, name: str) -> None:
    """Raise ValueError for a head of examples with a single logit, which is a score and no class."""
    needs_logits(model, name)
    if model.network.classes_of == "example" and model.network.unembedding.weight.shape[0] == 1:
        raise ValueError(f"{name}: {model.name} has one label, a score: use jh.class_loss or jh.class_logit")


def _kind(model: Model, name: str) -> str:
    """Return what the model's logits are classes of; raise ValueError for one without classes."""
    needs_logits(model, name)
    kind = model.network.classes_of
    if kind is None:
        raise ValueError(f"{name} is for classifiers; the logits of {model.name} are of tokens: use jh.logit")
    if kind == "answer":
        raise ValueError(f"{name} is for classifiers; {model.name} answers questions: use jh.answer_logit")
    return kind


def answer_ends(model: Model, batch: Batch, name: str, positions: np.ndarray) -> Array:
    """Return positions of an answer's ends, `[B]`; raise ValueError for a model that answers no questions."""
    needs_logits(model, name)
    if model.network.classes_of != "answer":
        raise ValueError(f"{name} is for models that answer questions; {model.name} does not: use jh.class_logit")
    real_BT = np.asarray(model.network.streams[-1].queries.of(batch).mask)
    return jnp.asarray(_inside(name, positions, real_BT), jnp.int32)


def _inside(name: str, positions: np.ndarray, real_BT: np.ndarray) -> np.ndarray:
    """Return positions `[B]`; raise ValueError for another number of them, or one without a real token."""
    B, T = real_BT.shape
    if len(positions) not in (1, B):
        raise ValueError(f"{name}: positions must be one number or {B}, one for each example; got {len(positions)}")
    positions_B = np.broadcast_to(positions, (B,))
    if positions_B.min() < 0 or positions_B.max() >= T:
        raise ValueError(f"{name}: positions must lie in 0..{T - 1}, got {positions_B.tolist()}")
    padding = np.flatnonzero(~real_BT[np.arange(B), positions_B])
    if padding.size:
        raise ValueError(f"{name}: there is padding at the positions of examples {padding[:8].tolist()}")
    return positions_B


def _numbered(model: Model, name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as numbers of classes, LEFT_OUT among them; raise ValueError for unknown ones."""
    names = model.labels or ()
    count = max(len(names), 2) if model.network.classes_of == "token" else len(names)
    if labels.dtype.kind == "U":
        known = {"": LEFT_OUT, **{label: number for number, label in reversed(list(enumerate(names)))}}
        unknown = [label for label in dict.fromkeys(labels.ravel().tolist()) if label not in known]
        if unknown:
            raise ValueError(
                f"{name}: {model.name} has the labels {', '.join(names)}; got {unknown[0]!r}"
                f"{nearest(unknown[0], names)}"
            )
        return np.vectorize(known.__getitem__, otypes=[int])(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: labels must be numbers or names of classes, got {labels.dtype}")
    wrong = labels[(labels != LEFT_OUT) & ((labels < 0) | (labels >= count))]
    if wrong.size:
        raise ValueError(f"{name}: classes of {model.name} are 0..{count - 1} ({', '.join(names)}); got {wrong[0]}")
    return labels


def labels_given(name: str, values: Any, *, numbers: bool = False) -> np.ndarray:
    """Return labels as an array of integers or of names, "" for None; with `numbers`, of floats too.

    Raises:
        ValueError: for other values, or lists of unequal length.
    """
    array = np.atleast_1d(np.array(values.tolist() if hasattr(values, "tolist") else values, dtype=object))
    entries = array.ravel().tolist()
    if array.ndim in (1, 2) and all(entry is None or (isinstance(entry, str) and entry) for entry in entries):
        words = np.array(["" if entry is None else entry for entry in entries])
        if any(entries):
            return words.reshape(array.shape)
    elif array.ndim in (1, 2) and all(
        entry is None or is_number(entry) or isinstance(entry, bool) for entry in entries
    ):
        given = np.array([LEFT_OUT if entry is None else entry for entry in entries]).reshape(array.shape)
        if given.dtype.kind in ("iufb" if numbers else "iu") and np.isfinite(given).all():
            return given
    raise ValueError(
        f"{name} must be numbers or names of classes, one, one for each example, or rows of equal length for tokens; "
        f"got {shown(values)}"
    )
