"""How well a head's cross-attention aligns a translation with its source: the alignment error rate."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...statistics import bootstrap_mean, check_level
from ...tables import Column, HeadTable
from . import Metric
from .example import Example
from .measuring import measure
from .value_norms import Of

SURE, POSSIBLE, SKIPPED = "sure link", "possible link", "skipped source"
"""Marks that the counts are read from."""

AT_ONCE = 2048
"""Examples: `measure` keeps so many one by one."""


def alignment_error_rate(
    model: Model,
    batch: Batch,
    sure: ArrayLike,
    possible: ArrayLike | None = None,
    *,
    skip: ArrayLike | None = None,
    of: Of = "weights",
    stack: str = "cross",
    level: float = 0.95,
    seed: int = 0,
) -> HeadTable:
    """AER = 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|), corpus totals, of each head; 0 to 1 (Och & Ney 2003, section 5).

    A head's links A are hard: each target row links to the source position with its largest weight, and no link is
    made where that is one to be skipped (the source's end, as in Kobayashi et al. 2020). Rows without a sure or
    possible link make none and ask for none: they are no words.

    Which word a row stands for is what `sure` says of it. A decoder's row reads one word and gives the next: links of
    the word it *gives* are Kobayashi's AWO, of the word it *reads* AWI, and the same head is right in one of them only.
    The tasks of translation have both as marks ("alignment", "alignment_input").

    Args:
        sure, possible: bool `[B,T,S]`; S ⊆ P, and P is S when left out.
        skip: bool `[B,S]`, source positions that no link goes to.
        of: "norms" takes the largest ‖α f(x)‖ in place of the largest α.

    Returns:
        One row a head: columns `aer`, `precision` (|A ∩ P| / |A|) and `recall` (|A ∩ S| / |S|), ratios of sums with
        their bootstrap intervals over examples; `.per_example` holds each example's own.

    Raises:
        ValueError: for links of another shape, sure ones that are not possible, links of padding, or no link at all;
            and as `measure`.
    """
    check_level(level)
    marked = batch.marked(_marks(model, batch, stack, sure, possible, skip))
    hits = (Metric(name, _hits, (("of", mark),)) for name, mark in (("possible", POSSIBLE), ("sure", SURE)))
    counts = (Metric("links", _links), *hits)
    tables = [
        measure(model, marked.take(np.arange(first, min(first + AT_ONCE, len(batch)))), counts, of=of, stack=stack)
        for first in range(0, len(batch), AT_ONCE)
    ]
    found = [table.per_example for table in tables if table.per_example is not None]
    links_ELN, possible_ELN, sure_ELN = np.nan_to_num(np.concatenate(found, axis=1).astype(np.float64))
    wanted_ELN = np.broadcast_to(np.asarray(sure, bool).sum(axis=(1, 2))[:, None, None], links_ELN.shape)
    shares = {
        "aer": (possible_ELN + sure_ELN, links_ELN + wanted_ELN),
        "precision": (possible_ELN, links_ELN),
        "recall": (sure_ELN, wanted_ELN),
    }
    columns = {}
    for name, (part_ELN, whole_ELN) in shares.items():
        share_ELN = np.where(whole_ELN > 0, part_ELN / np.maximum(whole_ELN, 1), np.nan)
        each_ELN = 1 - share_ELN if name == "aer" else share_ELN
        columns[name] = Column(*bootstrap_mean(each_ELN, counts=whole_ELN, level=level, seed=seed), each_ELN)
    about = {**tables[0].provenance, "examples": len(batch), "level": level, "seed": seed}
    about["metrics"] = {name: {} for name in shares}
    return HeadTable.from_columns("alignment_error_rate", tables[0].stack, columns, about)


def _marks(
    model: Model, batch: Batch, stack: str, sure: ArrayLike, possible: ArrayLike | None, skip: ArrayLike | None
) -> Mapping[str, np.ndarray]:
    part = model.stack(stack)
    B, T, S = len(batch), part.queries.count(batch), part.keys.count(batch)
    sure_BTS = np.asarray(sure)
    possible_BTS = sure_BTS if possible is None else np.asarray(possible)
    skip_BS = np.zeros((B, S), bool) if skip is None else np.asarray(skip)
    for name, given, shape in (
        ("sure", sure_BTS, (B, T, S)),
        ("possible", possible_BTS, (B, T, S)),
        ("skip", skip_BS, (B, S)),
    ):
        if given.dtype != bool or given.shape != shape:
            raise ValueError(f"{name}: expected bool {list(shape)}, got {given.dtype} of shape {list(given.shape)}")
    if (sure_BTS & ~possible_BTS).any():
        raise ValueError("sure links must be possible ones, too")
    real_BTS = np.asarray(part.queries.of(batch).mask)[:, :, None] & np.asarray(part.keys.of(batch).mask)[:, None]
    if (lost := np.flatnonzero((possible_BTS & ~real_BTS).any(axis=(1, 2)))).size:
        raise ValueError(f"links of examples {lost[:8].tolist()} lead to or from padding")
    if not sure_BTS.any():
        raise ValueError("no sure link in any example: there is nothing to align with")
    return {SURE: sure_BTS, POSSIBLE: possible_BTS, SKIPPED: skip_BS}


def _made(pattern_TS: Array, example: Example) -> tuple[Array, Array]:
    """Which rows make a link, `[T]`, and where to, `[T]`."""
    to_T = jnp.argmax(jnp.where(example.keys[None, :], pattern_TS, -1.0), axis=1)
    words_T = ((example.mark(SURE) + example.mark(POSSIBLE)) > 0).any(axis=1)
    return words_T & ~example.given(SKIPPED).astype(bool)[to_T], to_T


def _links(pattern_TS: Array, example: Example) -> tuple[Array, bool]:
    return _made(pattern_TS, example)[0].sum(dtype=jnp.float32), True


def _hits(pattern_TS: Array, example: Example, of: str) -> tuple[Array, bool]:
    makes_T, to_T = _made(pattern_TS, example)
    gold_T = jnp.take_along_axis(example.mark(of), to_T[:, None], axis=1)[:, 0] > 0
    return (makes_T & gold_T).sum(dtype=jnp.float32), True
