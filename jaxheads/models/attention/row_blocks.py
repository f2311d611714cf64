"""Attention block by block of query rows: scored, masked, edited, read, summed and dropped.

Memory grows with the length, not with its square, and so do gradients: on the way back each block is computed again.

Dimension key: B batch, T query positions, t rows of a block, S key positions, N query heads, K key/value heads, H head
dimension, C blocks.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..inputs.attention_inputs import RowBias
from ..inputs.query_rows import QueryBlock, Take, even_block
from ..spreading import AXIS, is_spread_over_devices, spread, stripes
from .fused import can_fuse, fused
from .lazy_sites import LazySites
from .row_edits import RowEdit
from .scoring import Scoring, readable, weighted_sum

SPANS = 4
"""Numbers of keys that blocks of causal attention are computed with: each is a loop of its own to compile."""


def attend_in_blocks(
    q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring, size: int
) -> tuple[Array, LazySites]:
    """Return z `[B,T,N,H]` before its edit, and the results of the edit's readers beside scores and patterns.

    Args:
        size: query rows of a block.
    """
    edit = scoring.edit
    assert isinstance(edit, RowEdit), "attention with another edit runs whole"

    def rows(take: Take) -> Mapping[str, Array]:
        of_rows = scoring.rows(take)
        scores_BNtS = of_rows.scores(take(q_BTNH, 1), k_BSKH)
        return {"scores": scores_BNtS, "pattern": of_rows.pattern(scores_BNtS)}

    if edit.readers or edit.of_queries:
        z_BTNH, results = _loop(q_BTNH, k_BSKH, v_BSKH, scoring, size, edit.readers)
        return z_BTNH, LazySites(results, rows)
    unread = partial(_unread, scoring=scoring, size=size)
    if can_fuse(scoring) and not is_spread_over_devices():
        z_BTNH = jax.lax.platform_dependent(q_BTNH, k_BSKH, v_BSKH, tpu=partial(fused, scoring=scoring), default=unread)
        return z_BTNH, LazySites({}, rows)
    return unread(q_BTNH, k_BSKH, v_BSKH), LazySites({}, rows)


def _unread(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring, size: int) -> Array:
    """Return z of attention whose scores nothing edits or reads."""
    # Stripes of queries are cut where devices are: spans of other rows would send them from one to the other.
    if scoring.mask.first is None or isinstance(scoring.bias, RowBias) or stripes(q_BTNH.shape[1]) > 1:
        return _loop(q_BTNH, k_BSKH, v_BSKH, scoring, size)[0]
    return _causal(q_BTNH, k_BSKH, v_BSKH, scoring, size)


def _causal(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring, size: int) -> Array:
    """Return z of causal attention, in a few spans of blocks, each with the keys before its end alone."""
    T, first = q_BTNH.shape[1], scoring.mask.first
    assert first is not None, "columns are consecutive"
    blocks = -(-T // size)
    width = size * -(-blocks // min(SPANS, blocks))
    spans = []
    for start in range(0, T, width):
        stop = min(start + width, T)
        span = scoring.rows(lambda x, axis, start=start, stop=stop: jax.lax.slice_in_dim(x, start, stop, axis=axis))
        keys = first + stop
        rows, length = (q_BTNH[:, start:stop], k_BSKH[:, :keys], v_BSKH[:, :keys]), min(size, stop - start)
        spans.append(_loop(*rows, span.until(keys), length)[0])
    return jnp.concatenate(spans, axis=1)


def _loop(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    scoring: Scoring,
    size: int,
    readers: Mapping[str, Any] | None = None,
) -> tuple[Array, dict[str, Any]]:
    """Return z, and by name what readers return, of all blocks one after the other; of stripes on devices at once."""
    (B, T, N, H), readers, values = q_BTNH.shape, readers or {}, readable(v_BSKH)
    whole = {"q": q_BTNH, "k": k_BSKH, "v": v_BSKH}
    count = stripes(T)
    length = T // count
    size = min(size, length) if count == 1 else even_block(size, length)

    def stripe(start: Array | int, q_BtNH: Array) -> tuple[dict[str, Any], Array]:
        """Return the sums and z of consecutive rows, from `start` on."""

        @partial(jax.checkpoint, prevent_cse=False)
        def step(sums: dict[str, Any], first: Array) -> tuple[dict[str, Any], Array]:
            rows = scoring.rows(QueryBlock(start + first, size, T))
            pattern_BNtS = rows.pattern(rows.scores(QueryBlock(first, size, length)(q_BtNH, 1), k_BSKH))
            sites = {**whole, "pattern": pattern_BNtS}
            sums = {name: reader.add(sums[name], sites, start + first) for name, reader in readers.items()}
            return sums, weighted_sum(pattern_BNtS, values)

        starts = {name: reader.start() for name, reader in readers.items()}
        sums, z_CBtNH = jax.lax.scan(step, starts, size * jnp.arange(-(-length // size)))
        return sums, jnp.moveaxis(z_CBtNH, 0, 1).reshape(B, -1, N, v_BSKH.shape[3])[:, :length]

    if count == 1:
        sums, z_BTNH = stripe(0, q_BTNH)
    else:
        q_PBtNH = spread(jnp.moveaxis(q_BTNH.reshape(B, count, length, N, H), 1, 0), 0)
        sums_P, z_PBtNH = jax.vmap(stripe, spmd_axis_name=AXIS)(length * jnp.arange(count), q_PBtNH)
        # Readers add up blocks: the sums of stripes add up, too.
        sums = jax.tree.map(lambda sum_P: sum_P.sum(axis=0), sums_P)
        z_BTNH = spread(jnp.moveaxis(spread(z_PBtNH, 0), 0, 1).reshape(B, T, N, -1), 1)
    return z_BTNH, {name: reader.finish(sums[name]) for name, reader in readers.items()}


def read_whole(readers: Mapping[str, Any], sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return by name what readers return of a whole pattern, as one block."""
    return {name: reader.finish(reader.add(reader.start(), sites, 0)) for name, reader in readers.items()}
