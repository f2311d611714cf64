"""The likeliest tokens of a run, as texts.

Dimension key: B batch, T positions, V vocabulary, P rows shown, k tokens of each.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import ArrayLike

from .inputs.answers import token_texts
from .inputs.batch import Positions


def likeliest(logits_PV: Array, k: int, texts: Any) -> pd.DataFrame:
    """Return `k` rows for each row of logits, the likeliest first: its rank, text (if any), id, logit and probability.

    Args:
        texts: a tokenizer; labels of classes by id; or None, which leaves out the texts.
    """
    logits = np.asarray(logits_PV.astype(np.float32))
    k = min(k, logits.shape[1])
    # A stable sort: of equal logits the smallest id comes first.
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    probability = np.asarray(jax.nn.softmax(logits, axis=1))
    columns: dict[str, Any] = {"rank": np.tile(np.arange(k), len(ids))}
    if isinstance(texts, Mapping):
        columns["predicted"] = [texts.get(int(label), str(label)) for label in ids.reshape(-1)]
    elif texts is not None:
        columns["predicted"] = token_texts(texts, ids).reshape(-1)
    columns |= {"id": ids.reshape(-1)}
    for name, values in (("logit", logits), ("probability", probability)):
        columns[name] = np.take_along_axis(values, ids, axis=1).reshape(-1)
    return pd.DataFrame(columns)


def chosen_rows(positions: Positions, chosen: ArrayLike | str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples and columns `[P]` of the chosen positions: the last real ones when None, "all" real ones.

    Raises:
        ValueError: for another word, a wrong number of positions, or one that is not there or padding.
    """
    mask_BT = np.asarray(positions.mask)
    B, T = mask_BT.shape
    if isinstance(chosen, str):
        if chosen != "all":
            raise ValueError(f"positions must be 'all', or one for all examples or for each of {B}; got {chosen!r}")
        examples, columns = np.nonzero(mask_BT)
        return examples, columns
    columns = np.atleast_1d(np.asarray(positions.last if chosen is None else chosen))
    if columns.dtype.kind not in "iu" or columns.shape not in ((1,), (B,)):
        raise ValueError(
            f"positions must be 'all', or one for all examples or for each of {B}; got {columns.dtype} of shape "
            f"{list(columns.shape)}"
        )
    columns = np.broadcast_to(columns, (B,))
    if columns.min() < 0 or columns.max() >= T or not mask_BT[np.arange(B), columns].all():
        raise ValueError(f"positions must be real tokens in 0..{T - 1}, got {columns.tolist()}")
    return np.arange(B), columns


def texts_of(tokenizer: Any, positions: Positions) -> list[list[str]]:
    """Return the text of each position's token by example, "" at padding."""
    texts_BT = np.where(np.asarray(positions.mask), token_texts(tokenizer, np.asarray(positions.ids)), "")
    return texts_BT.tolist()
