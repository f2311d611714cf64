"""The alignment error rate: agreement of a head's cross-attention with the word alignment of a translation.

Dimension key: B batch, E examples, L layers, N heads, T target positions, S source positions.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.resources import shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...statistics import check_level, mean_interval
from ...tables import Column, HeadTable
from .example import Example
from .metric import ByRows, Metric
from .scoring import measure
from .value_norms import Of

SURE, POSSIBLE, SKIPPED = "sure link", "possible link", "skipped source"
"""Marks that the counts are read from."""

MOST_EXAMPLES = 2048
"""Examples of one call of `measure`, which keeps no more of them one by one."""


@shares_options()
def alignment_error_rate(
    model: Model,
    batch: Batch | Texts,
    sure: ArrayLike,
    possible: ArrayLike | None = None,
    *,
    skip: ArrayLike | None = None,
    of: Of = "weights",
    stack: str = "cross",
    level: float = 0.95,
    **options: Any,
) -> HeadTable:
    """Return each head's alignment error rate, 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|), corpus totals; 0 to 1.

    Och & Ney 2003, section 5. A head's links A are hard: each target row links to the source position with its largest
    weight, unless that is to be skipped (the source's end, as in Kobayashi et al. 2020). Rows without a sure or
    possible link are no words, and make no link.

    `sure` decides which word a row stands for. A decoder's row reads one word and writes the next: links of the word it
    *writes* are Kobayashi's AWO, of the word it *reads* AWI, and one head is right in one of them only. The tasks of
    translation have both as marks ("alignment", "alignment_input").

    Args:
        sure, possible: bool `[B,T,S]`; S ⊆ P, and P is S when left out.
        skip: bool `[B,S]`, source positions that no link goes to.
        of: "norms" takes the largest ‖α f(x)‖ in place of the largest α.
        stack: the name of the stack whose heads are asked about.
        level: the confidence level of the intervals over examples, between 0 and 1.
        options: memory, devices, progress and resume, as `measure` takes them.

    Returns:
        One row a head: columns `aer`, `precision` (|A ∩ P| / |A|) and `recall` (|A ∩ S| / |S|), ratios of sums with
        their intervals over examples; `.per_example` holds each example's own.

    Raises:
        ValueError: for links of another shape, sure ones that are not possible, links of padding, or no link at all;
            and as `measure`.
    """
    check_level(level)
    marked = batch.marked(_marks(model, batch, stack, sure, possible, skip))
    hits = (
        Metric(name, ByRows(_hits, _total), (("of", mark),)) for name, mark in (("possible", POSSIBLE), ("sure", SURE))
    )
    counts = (Metric("links", ByRows(_links, _total)), *hits)
    starts = range(0, len(batch), MOST_EXAMPLES)
    blocks = [marked.take(np.arange(start, min(start + MOST_EXAMPLES, len(batch)))) for start in starts]
    tables = [measure(model, block, counts, of=of, stack=stack, **options) for block in blocks]
    counts_MELN = np.concatenate([table.per_example for table in tables if table.per_example is not None], axis=1)
    links_ELN, possible_ELN, sure_ELN = np.nan_to_num(counts_MELN.astype(np.float64))
    gold_ELN = np.broadcast_to(np.asarray(sure, bool).sum(axis=(1, 2))[:, None, None], links_ELN.shape)
    shares = {
        "aer": (possible_ELN + sure_ELN, links_ELN + gold_ELN),
        "precision": (possible_ELN, links_ELN),
        "recall": (sure_ELN, gold_ELN),
    }
    clusters = batch.cluster_labels
    columns = {}
    for name, (part_ELN, whole_ELN) in shares.items():
        share_ELN = np.where(whole_ELN > 0, part_ELN / np.maximum(whole_ELN, 1), np.nan)
        values_ELN = 1 - share_ELN if name == "aer" else share_ELN
        interval = mean_interval(values_ELN, counts=whole_ELN, clusters=clusters, within=(0, 1), level=level)
        columns[name] = Column(*interval, values_ELN, range=(0, 1))
    about = {**tables[0].provenance, "examples": len(batch), "level": level}
    about["metrics"] = {name: {} for name in shares}
    return HeadTable.from_columns("alignment_error_rate", tables[0].stack, columns, about, clusters=clusters)


def _marks(
    model: Model, batch: Batch, stack: str, sure: ArrayLike, possible: ArrayLike | None, skip: ArrayLike | None
) -> Mapping[str, np.ndarray]:
    """Return the links as marks of the batch; raises ValueError for those that can't be."""
    aligned = model.stack(stack)
    B, T, S = len(batch), aligned.queries.count(batch), aligned.keys.count(batch)
    sure_BTS = np.asarray(sure)
    possible_BTS = sure_BTS if possible is None else np.asarray(possible)
    skip_BS = np.zeros((B, S), bool) if skip is None else np.asarray(skip)
    for name, links, shape in (
        ("sure", sure_BTS, (B, T, S)),
        ("possible", possible_BTS, (B, T, S)),
        ("skip", skip_BS, (B, S)),
    ):
        if links.dtype != bool or links.shape != shape:
            raise ValueError(f"{name}: expected bool {list(shape)}, got {links.dtype} of shape {list(links.shape)}")
    if (sure_BTS & ~possible_BTS).any():
        raise ValueError("sure links must be possible ones, too")
    queries_BT, keys_BS = (np.asarray(axis.of(batch).mask) for axis in (aligned.queries, aligned.keys))
    padding_BTS = ~(queries_BT[:, :, None] & keys_BS[:, None])
    if (wrong := np.flatnonzero((possible_BTS & padding_BTS).any(axis=(1, 2)))).size:
        raise ValueError(f"links of examples {wrong[:8].tolist()} lead to or from padding")
    if not sure_BTS.any():
        raise ValueError("no sure link in any example: there is nothing to align with")
    return {SURE: sure_BTS, POSSIBLE: possible_BTS, SKIPPED: skip_BS}


def _head_links(pattern_TS: Array, example: Example) -> tuple[Array, Array]:
    """Return which rows make a link, bool `[T]`, and each row's source position, `[T]`."""
    source_T = jnp.argmax(jnp.where(example.keys[None, :], pattern_TS, -1.0), axis=1)
    words_T = ((example.mark(SURE) + example.mark(POSSIBLE)) > 0).any(axis=1)
    return words_T & ~example.raw_mark(SKIPPED).astype(bool)[source_T], source_T


def _links(pattern_TS: Array, example: Example) -> Array:
    return _head_links(pattern_TS, example)[0].sum(dtype=jnp.float32)


def _hits(pattern_TS: Array, example: Example, of: str) -> Array:
    links_T, source_T = _head_links(pattern_TS, example)
    gold_T = jnp.take_along_axis(example.mark(of), source_T[:, None], axis=1)[:, 0] > 0
    return (links_T & gold_T).sum(dtype=jnp.float32)


def _total(sums: Array, example: Example, **options: Any) -> tuple[Array, bool]:
    del example, options
    return sums, True
