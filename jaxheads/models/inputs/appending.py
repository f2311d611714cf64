"""Tokens put behind the last real ones of a batch.

Dimension key: B batch, T positions of the batch, U positions of the longer one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .batch import Batch

_NAMES = {"tokens": ("tokens", "mask"), "targets": ("targets", "target_mask")}
"""Field of the ids, and of their mask, by the kind of positions."""


def appended(batch: Batch, kind: str, rows: Sequence[Sequence[int]], *, mark: str, end: int | None = None) -> Batch:
    """Return a batch with the tokens of each of `rows` behind its example's last real one, and a mark of them.

    Padding stays on its side. Other marks and words are extended by 0 and by -1.

    Args:
        kind: "tokens", or "targets" of an encoder–decoder.
        end: the token that ends a text: it is removed from the end of an example, which goes on.

    Raises:
        ValueError: for packed texts, which share an example.
    """
    if batch.segments is not None:
        raise ValueError("an answer follows one text, and these examples hold several: leave pack out")
    ids_name, mask_name = _NAMES[kind]
    ids_BT, mask_BT = (np.asarray(getattr(batch, name)) for name in (ids_name, mask_name))
    column_BU, answer_BU = _columns(ids_BT, mask_BT, rows, end)
    new_ids_BU = _moved(ids_BT, column_BU, axis=1, fill=0)
    new_ids_BU[answer_BU] = [token for row in rows for token in row]
    fields: dict[str, Any] = {
        ids_name: new_ids_BU,
        mask_name: _moved(mask_BT, column_BU, axis=1, fill=False) | answer_BU,
    }
    if kind == "tokens":
        fields["token_types"] = _moved(np.asarray(batch.token_types), column_BU, axis=1, fill=0)
        fields["words"] = None if batch.words is None else _moved(np.asarray(batch.words), column_BU, axis=1, fill=-1)
    marks = {name: np.asarray(values) for name, values in (batch.marks or {}).items()}
    for name, values in marks.items() if kind == "tokens" else ():
        for axis in range(1, values.ndim):
            if values.shape[axis] == ids_BT.shape[1]:
                marks[name] = _moved(marks[name], column_BU, axis=axis, fill=0)
    names = ("tokens", "mask", "token_types", "words", "targets", "target_mask", "pixels", "features")
    known: dict[str, Any] = {"clusters": batch.clusters, "labels": batch.labels}
    return Batch(**{name: getattr(batch, name) for name in names} | fields, **known, marks=marks | {mark: answer_BU})


def _columns(
    ids_BT: np.ndarray, mask_BT: np.ndarray, rows: Sequence[Sequence[int]], end: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the old column of each new position, `[B,U]` (-1: none), and which new positions are those of `rows`."""
    left = bool(mask_BT[:, -1].all()) and not mask_BT[:, 0].all()
    kept = []
    for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True):
        real = np.flatnonzero(mask_T)
        stop = real[-1] + (len(real) == 1 or ids_T[real[-1]] != end)
        kept.append(np.arange(real[0] if left else 0, stop))
    U = max(len(columns) + len(row) for columns, row in zip(kept, rows, strict=True))
    column_BU, answer_BU = np.full((len(rows), U), -1), np.zeros((len(rows), U), bool)
    for number, (columns, row) in enumerate(zip(kept, rows, strict=True)):
        start = U - len(columns) - len(row) if left else 0
        middle = start + len(columns)
        column_BU[number, start:middle], answer_BU[number, middle : middle + len(row)] = columns, True
    return column_BU, answer_BU


def _moved(values: np.ndarray, column_BU: np.ndarray, *, axis: int, fill: Any) -> np.ndarray:
    """Return values with their columns along one axis moved, `fill` where a position is new."""
    shape = [1] * values.ndim
    shape[0], shape[axis] = column_BU.shape
    index = column_BU.reshape(shape)
    return np.where(index < 0, fill, np.take_along_axis(values, np.maximum(index, 0), axis=axis)).astype(values.dtype)
